// Calls every method of E2B's JavaScript SDK and checks the results. Options and lines of output are
// those of ../python/probe, without the kind of classes.
import dns from 'node:dns'
import { parseArgs } from 'node:util'
import { PROBES, Unavailable } from './registry.mjs'
import { methods } from './surface.mjs'
import { DIFFERS, judged, taken } from './verdicts.mjs'
import { World } from './world.mjs'
import './sandboxes.mjs'
import './commands.mjs'
import './files.mjs'
import './git.mjs'
import './interpreter.mjs'
import './platform_objects.mjs'

const { values: options } = parseArgs({ options: {
  surface: { type: 'boolean' }, template: { type: 'string' },
  tag: { type: 'string', default: 'probe-of=coppice' }, apart: { type: 'string', default: '0' },
} })
const write = (line) => process.stdout.write(JSON.stringify(line) + '\n')
const all = methods()

// Names below localhost mean this host (RFC 6761): browsers know that, some resolvers do not.
const lookup = dns.lookup
dns.lookup = (host, ...rest) => lookup(host.endsWith('.localhost') ? '127.0.0.1' : host, ...rest)

// The kind and reason of one probe; kind null if the method works.
async function verdict(world, method) {
  try {
    await world.begin()
    taken()
    await PROBES.get(method)(world)
    return [null, '']
  } catch (error) {
    if (error instanceof Unavailable) return [error.kind, error.reasonFor(method)]
    const exchanges = taken()
    if (await world.isAlive()) return judged(error, exchanges, true)
    world.lost()
    return [DIFFERS, `the sandbox is gone; ${judged(error, exchanges, false)[1]}`]
  }
}

if (options.surface) {
  for (const method of all) write({ method, probed: PROBES.has(method) })
  process.exit(0)
}
const [name, ...value] = options.tag.split('=')
const world = new World({ [name]: value.join('=') }, options.template, 1000 * options.apart)
for (const method of PROBES.keys()) {
  if (!all.includes(method)) continue
  const [kind, reason] = await verdict(world, method)
  write({ method, kind, reason })
}
for (const method of all) if (!PROBES.has(method)) write({ method, kind: 'failed', reason: 'not probed' })
await world.end()
process.exit(0)
