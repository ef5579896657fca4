// The sandbox and the other objects that probes share, and their end.
import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { Sandbox } from '@e2b/code-interpreter'
import { ODD, ODD_DIRECTORY, ODD_NAME, Unavailable } from './registry.mjs'
import { judged, taken } from './verdicts.mjs'

export class World {
  kept = new Map()
  failed = new Map()
  ends = []
  box = null

  constructor(tag, template, apartMs) {
    Object.assign(this, { tag, template, apartMs, last: 0 })
    this.name = `coppice-${randomBytes(4).toString('hex')}`
    this.metadata = { ...tag, probe: this.name, [ODD_NAME]: ODD }
  }

  // Another sandbox. It ends with the world at the latest.
  async create(options = {}, template = this.template) {
    const all = { timeoutMs: 120_000, ...options, metadata: { ...options.metadata, ...this.tag } }
    await this.wait()
    const made = await (template ? Sandbox.create(template, all) : Sandbox.create(all))
    this.atEnd(() => made.kill())
    return made
  }

  // Wait until so many sandboxes may be made.
  async wait(count = 1) {
    await new Promise((done) => setTimeout(done, Math.max(this.last + this.apartMs - performance.now(), 0)))
    this.last = performance.now() + (count - 1) * this.apartMs
  }

  atEnd(end) { this.ends.push(end) }

  async begin() {
    this.box ??= await this.keep('box', 'Sandbox.create', () => this.create({ timeoutMs: 600_000, metadata: this.metadata }))
  }

  // The object under this name; it is made first if there is none.
  async keep(what, method, make) {
    if (this.failed.has(what)) throw this.failed.get(what)
    if (!this.kept.has(what)) {
      taken()
      try {
        this.kept.set(what, await make())
      } catch (error) {
        this.failed.set(what, error instanceof Unavailable ? error : new Unavailable(method, judged(error, taken(), true)))
        throw this.failed.get(what)
      }
    }
    return this.kept.get(what)
  }

  // The object is used up: the next caller gets a new one.
  take(what) { this.kept.delete(what) }

  context() {
    return this.keep('context', 'sandbox.create_code_context', async () => {
      await this.box.files.makeDir(ODD_DIRECTORY)
      return await this.box.createCodeContext({ cwd: ODD_DIRECTORY })
    })
  }

  paused() {
    return this.keep('paused', 'sandbox.pause', async () => {
      const made = await this.create()
      await made.files.write('kept.txt', 'kept')
      await (made.pause ?? made.betaPause).call(made)
      assert.equal((await made.getInfo()).state, 'paused')
      return made
    })
  }

  snapshot() {
    return this.keep('snapshot', 'sandbox.create_snapshot', async () => {
      await this.box.files.write('in-the-snapshot.txt', 'here')
      const made = await this.box.createSnapshot()
      this.atEnd(() => Sandbox.deleteSnapshot(made.snapshotId))
      return made
    })
  }

  async isAlive() {
    try { return await this.box.isRunning() } catch { return false }
  }

  lost() {
    this.box = null
    this.kept.clear()
    this.failed.clear()
  }

  async end() {
    for (const end of this.ends.reverse()) try { await end() } catch { /* it is gone already */ }
  }
}
