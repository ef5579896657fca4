// Registration of probes by method, and the values that they send.
import assert from 'node:assert/strict'

export const PROBES = new Map()
export const ODD = 'a b@c:d+e%f%20=g&hé#?;,\'"\\$~ü\n', ODD_NAME = 'x y@z:+%25=&é'
// Values that survive only where they are quoted exactly as often as they are unquoted.
export const ODD_PATH = "odd/a b@c:d+e%f%20=g&hé#?;,'~ü.txt", ODD_DIRECTORY = '/tmp/d é+%20&='
export const HOME = '/home/user'

// Register a function that takes the world and the method's own name.
export function probe(...methods) {
  const call = methods.pop()
  for (const method of methods) {
    assert.ok(!PROBES.has(method), `${method} has two probes`)
    PROBES.set(method, (world) => call(world, method.split('.')[1]))
  }
}

// A method cannot be called since another one, which it needs, does not work.
export class Unavailable extends Error {
  constructor(method, [kind, reason]) {
    super(reason)
    Object.assign(this, { method, kind, reason })
  }

  reasonFor(method) {
    return method === this.method ? this.reason : `needs ${this.method}: ${this.reason}`
  }
}
