// Calls every operation through E2B's JavaScript SDK and checks the results. Writes the same lines of
// JSON as ../python/probe, one for each operation.
import assert from 'node:assert/strict'
import { ApiClient, CommandExitError, ConnectionConfig, NotFoundError } from 'e2b'
import { Sandbox } from '@e2b/code-interpreter'

const CONTROL = 'control plane', ENVD = 'envd', CODE = 'code interpreter'
const checks = []
const check = (operation, plane, call) => checks.push([operation, plane, call])
const api = new ApiClient(new ConnectionConfig(), { requireApiKey: true }).api
const sleep = (ms) => new Promise((done) => setTimeout(done, ms))
const minute = { timeoutMs: 60_000 }
// Values that survive only where they are quoted exactly as often as they are unquoted.
const ODD = 'a b@c:d+e%f%20=g&hé#?;,\'"\\$~ü\n', ODD_NAME = 'x y@z:+%25=&é'
const ODD_PATH = "odd/a b@c:d+e%f%20=g&hé#?;,'~ü.txt"
const metadata = { probe: 'js', [ODD_NAME]: ODD }

async function raw(method, path, options, status) {
  const { response, data, error } = await api[method](path, options)
  assert.equal(response.status, status, JSON.stringify(error))
  return data
}
const of = (box) => ({ params: { path: { sandboxID: box.sandboxId } } })

check('POST /sandboxes', CONTROL, async () => {
  const made = await raw('POST', '/sandboxes', { body: { templateID: 'base', timeout: 60 } }, 201)
  assert.equal(await Sandbox.kill(made.sandboxID), true)
})
check('POST /v2/sandboxes', CONTROL, async () => {
  const made = await Sandbox.create({ ...minute, metadata, envs: { A: ODD } })
  assert.deepEqual((await made.getInfo()).metadata, metadata)
  assert.equal((await made.commands.run('printf %s "$A"')).stdout, ODD)
  assert.doesNotMatch(made.getHost(80), /\.e2b\.(app|dev)$/)
  assert.equal(await made.kill(), true)
  await assert.rejects(Sandbox.create('no such/té mplate%20+'), /not found/)
})
check('GET /health', CONTROL, async () => {
  assert.equal((await fetch(process.env.E2B_API_URL + '/health')).status, 200)
})
check('GET /sandboxes', CONTROL, async (one) => {
  const found = await raw('GET', '/sandboxes', { params: { query: { metadata: 'probe=js' } } }, 200)
  assert.deepEqual(found.map((box) => box.sandboxID), [one.sandboxId])
})
check('GET /v2/sandboxes', CONTROL, async (one) => {
  const second = await Sandbox.create({ ...minute, metadata })
  for (const character of ODD) {
    const wrong = { [ODD_NAME]: ODD.replaceAll(character, '') }
    assert.deepEqual(await Sandbox.list({ query: { metadata: wrong } }).nextItems(), [])
  }
  const pages = Sandbox.list({ query: { metadata }, limit: 1 })
  const ids = [(await pages.nextItems())[0].sandboxId]
  assert.equal(pages.hasNext, true)
  ids.push((await pages.nextItems())[0].sandboxId)
  await second.kill()
  assert.deepEqual(new Set(ids), new Set([one.sandboxId, second.sandboxId]))
})
check('GET /sandboxes/metrics', CONTROL, async (one) => {
  const query = { sandbox_ids: [one.sandboxId] }
  const found = await raw('GET', '/sandboxes/metrics', { params: { query } }, 200)
  assert.ok(found.sandboxes[one.sandboxId].memTotal > 0)
})
check('GET /sandboxes/{id}', CONTROL, async (one) => {
  const info = await one.getInfo()
  assert.equal(info.templateId, 'code-interpreter-v1')
})
check('DELETE /sandboxes/{id}', CONTROL, async () => {
  const made = await Sandbox.create(minute)
  assert.equal(await Sandbox.kill(made.sandboxId), true)
  assert.equal(await Sandbox.kill(made.sandboxId), false)
  assert.equal(await made.isRunning(), false)
})
check('GET /sandboxes/{id}/logs', CONTROL, async (one) => {
  const found = await raw('GET', '/sandboxes/{sandboxID}/logs', of(one), 200)
  assert.ok(found.logs.some((line) => line.line.includes('created')))
})
check('GET /v2/sandboxes/{id}/logs', CONTROL, async (one) => {
  const found = await raw('GET', '/v2/sandboxes/{sandboxID}/logs', of(one), 200)
  assert.ok(found.logs.some((line) => line.message.includes('created')))
})
check('GET /sandboxes/{id}/metrics', CONTROL, async (one) => {
  assert.ok((await one.getMetrics()).at(-1).memTotal > 0)
})
const pause = (box) => (box.pause ?? box.betaPause).call(box)
check('POST /sandboxes/{id}/pause', CONTROL, async () => {
  const made = await Sandbox.create(minute)
  await pause(made)
  assert.equal((await made.getInfo()).state, 'paused')
  await made.kill()
})
for (const [operation, path, status] of [
  ['POST /sandboxes/{id}/resume', '/sandboxes/{sandboxID}/resume', 201],
  ['POST /sandboxes/{id}/connect', '/sandboxes/{sandboxID}/connect', 201],
])
  check(operation, CONTROL, async () => {
    const made = await Sandbox.create(minute)
    await pause(made)
    await raw('POST', path, { ...of(made), body: { timeout: 60 } }, status)
    assert.equal((await made.commands.run('echo back')).stdout, 'back\n')
    await made.kill()
  })
check('POST /v2/sandboxes/{id}/connect', CONTROL, async () => {
  const made = await Sandbox.create(minute)
  await made.files.write('kept.txt', 'kept')
  await pause(made)
  const again = await Sandbox.connect(made.sandboxId, minute)
  assert.equal(await again.files.read('kept.txt'), 'kept')
  await again.kill()
})
check('POST /sandboxes/{id}/fork', CONTROL, async (one) => {
  await one.runCode('number = 41')
  const forks = await one.fork({ count: 2, ...minute })
  for (const fork of forks) {
    const box = fork.sandbox ?? fork
    assert.equal((await box.runCode('number + 1')).text, '42')
    await box.kill()
  }
  assert.equal(forks.length, 2)
})
check('POST /sandboxes/{id}/timeout', CONTROL, async (one) => {
  const before = (await one.getInfo()).endAt
  await one.setTimeout(1_200_000)
  assert.ok((await one.getInfo()).endAt - before > 300_000)
})
check('POST /sandboxes/{id}/refreshes', CONTROL, async (one) => {
  await raw('POST', '/sandboxes/{sandboxID}/refreshes', { ...of(one), body: { duration: 60 } }, 204)
})
check('PUT /sandboxes/{id}/network', CONTROL, async (one) => {
  await one.updateNetwork({ denyOut: ['203.0.113.0/24'] })
})
check('POST /sandboxes/{id}/snapshots', CONTROL, async (one) => {
  await one.files.write('in-the-snapshot.txt', 'here')
  const made = await one.createSnapshot()
  const copy = await Sandbox.create(made.snapshotId, minute)
  assert.equal(await copy.files.read('in-the-snapshot.txt'), 'here')
  await copy.kill()
  await Sandbox.deleteSnapshot(made.snapshotId)
})
check('GET /snapshots', CONTROL, async (one) => {
  const made = await one.createSnapshot()
  const ids = async () => (await Sandbox.listSnapshots().nextItems()).map((each) => each.snapshotId)
  assert.ok((await ids()).includes(made.snapshotId))
  assert.equal(await Sandbox.deleteSnapshot(made.snapshotId), true)
  assert.ok(!(await ids()).includes(made.snapshotId))
})

check('process: Start', ENVD, async (one) => {
  const done = await one.commands.run('echo out; echo err >&2; pwd; id -un')
  assert.deepEqual([done.stdout, done.stderr], ['out\n/home/user\nuser\n', 'err\n'])
  assert.equal((await one.commands.run('id -u', { user: 'root' })).stdout, '0\n')
  assert.equal((await one.commands.run('printf %s "$X"', { envs: { X: ODD } })).stdout, ODD)
  const quoted = ODD.replaceAll("'", "'\\''")
  assert.equal((await one.commands.run(`printf %s '${quoted}'`)).stdout, ODD)
  await assert.rejects(one.commands.run('exit 3'), (error) => error instanceof CommandExitError && error.exitCode === 3)
})
check('process: Start, time limit', ENVD, async (one) => {
  await assert.rejects(one.commands.run('sleep 60', { timeoutMs: 1000 }), (error) => error.name === 'TimeoutError')
})
check('process: Connect', ENVD, async (one) => {
  const begun = await one.commands.run('sleep 1; echo later', { background: true })
  await begun.disconnect()
  assert.equal((await (await one.commands.connect(begun.pid)).wait()).stdout, 'later\n')
})
check('process: List', ENVD, async (one) => {
  const begun = await one.commands.run('sleep 60', { background: true })
  assert.ok((await one.commands.list()).some((process) => process.pid === begun.pid))
  await begun.kill()
})
check('process: SendInput, CloseStdin', ENVD, async (one) => {
  const begun = await one.commands.run('cat', { background: true, stdin: true })
  await one.commands.sendStdin(begun.pid, ODD)
  await one.commands.closeStdin(begun.pid)
  assert.equal((await begun.wait()).stdout, ODD)
})
check('process: SendSignal', ENVD, async (one) => {
  const begun = await one.commands.run('sleep 60', { background: true })
  assert.equal(await one.commands.kill(begun.pid), true)
  await sleep(500)
  assert.equal(await one.commands.kill(begun.pid), false)
})
check('process: Start with a pty, Update', ENVD, async (one) => {
  let said = ''
  const onData = (data) => { said += new TextDecoder().decode(data) }
  const begun = await one.pty.create({ cols: 80, rows: 24, onData })
  await one.pty.resize(begun.pid, { cols: 100, rows: 30 })
  await one.pty.sendInput(begun.pid, new TextEncoder().encode('stty size; exit 0\n'))
  await begun.wait()
  assert.match(said, /30 100/)
})
check('filesystem: Stat', ENVD, async (one) => {
  await one.files.write('stat.txt', '1234')
  const info = await one.files.getInfo('stat.txt')
  assert.deepEqual([info.size, info.owner, info.path], [4, 'user', '/home/user/stat.txt'])
  assert.equal(await one.files.exists('nothing.txt'), false)
  await one.files.write(ODD_PATH, '1234')
  assert.equal((await one.files.getInfo(ODD_PATH)).path, `/home/user/${ODD_PATH}`)
})
check('filesystem: ListDir', ENVD, async (one) => {
  await one.files.write('list/a/b.txt', '')
  const found = await one.files.list('list', { depth: 2 })
  assert.deepEqual(found.map((each) => each.path), ['/home/user/list/a', '/home/user/list/a/b.txt'])
})
check('filesystem: MakeDir', ENVD, async (one) => {
  assert.equal(await one.files.makeDir('made/deep'), true)
  assert.equal(await one.files.makeDir('made/deep'), false)
})
check('filesystem: Move', ENVD, async (one) => {
  await one.files.write('before.txt', 'moved')
  await one.files.rename('before.txt', 'after.txt')
  assert.equal(await one.files.read('after.txt'), 'moved')
  await one.files.rename('after.txt', ODD_PATH)
  assert.equal(await one.files.read(ODD_PATH), 'moved')
})
check('filesystem: Remove', ENVD, async (one) => {
  await one.files.write('directory/file.txt', '')
  await one.files.remove('directory')
  assert.equal(await one.files.exists('directory'), false)
})
check('filesystem: WatchDir', ENVD, async (one) => {
  await one.files.makeDir('watched')
  const seen = []
  const handle = await one.files.watchDir('watched', (event) => { seen.push(event.name) })
  await one.files.write('watched/new.txt', 'x')
  for (let tries = 0; tries < 100 && !seen.includes('new.txt'); tries++) await sleep(100)
  await handle.stop()
  assert.ok(seen.includes('new.txt'))
})
check('files: POST, form', ENVD, async (one) => {
  await one.files.write('form.txt', 'text')
  assert.equal(await one.files.read('form.txt'), 'text')
  await one.files.write([{ path: `many/a${ODD_PATH}`, data: ODD }, { path: `many/b${ODD_PATH}`, data: ODD }])
  assert.equal(await one.files.read(`many/b${ODD_PATH}`), ODD)
})
check('files: POST, stream', ENVD, async (one) => {
  const data = new Uint8Array(3 << 20).map((_, index) => (index * 7) % 251)
  await one.files.write('stream.bin', new Blob([data]), { useOctetStream: true })
  const back = await one.files.read('stream.bin', { format: 'bytes' })
  assert.equal(Buffer.compare(Buffer.from(back), Buffer.from(data)), 0)
})
check('files: GET', ENVD, async (one) => {
  await one.files.write('read.txt', 'text')
  assert.equal(await one.files.read('read.txt'), 'text')
  await assert.rejects(one.files.read('missing.txt'), (error) => /not ?found|NotFound/i.test(error.name + error.message) || error instanceof NotFoundError)
})
check('files: signed addresses', ENVD, async (one) => {
  await one.files.write(ODD_PATH, 'signed')
  const address = await one.downloadUrl(`/home/user/${ODD_PATH}`)
  assert.equal(await (await fetch(address)).text(), 'signed')
  assert.ok([401, 404].includes((await fetch(address.replace('v1_', 'v1_x'))).status))
  const headers = { 'Content-Type': 'application/octet-stream' }
  const upload = await one.uploadUrl(`/home/user/${ODD_PATH}.new`)
  assert.equal((await fetch(upload, { method: 'POST', headers, body: ODD })).status, 200)
  assert.equal(await one.files.read(`${ODD_PATH}.new`), ODD)
})
check('GET /health of envd', ENVD, async (one) => {
  assert.equal(await one.isRunning(), true)
})

check('POST /execute', CODE, async (one) => {
  const echoed = await one.runCode("import os\nprint(os.environ['Q'], end='')", { envs: { Q: ODD } })
  assert.equal(echoed.logs.stdout.join(''), ODD)
  const done = await one.runCode("print('out')\n6*7")
  assert.deepEqual([done.text, done.logs.stdout], ['42', ['out\n']])
  const failed = await one.runCode('1/0')
  assert.equal(failed.error.name, 'ZeroDivisionError')
})
check('POST /contexts', CODE, async (one) => {
  const made = await one.createCodeContext({ cwd: '/tmp' })
  assert.equal((await one.runCode('import os; os.getcwd()', { context: made })).text, '/tmp')
  await one.removeCodeContext(made)
})
check('GET /contexts', CODE, async (one) => {
  assert.ok((await one.listCodeContexts()).some((each) => each.language === 'python'))
})
check('DELETE /contexts/{id}', CODE, async (one) => {
  const made = await one.createCodeContext()
  await one.removeCodeContext(made)
  assert.ok(!(await one.listCodeContexts()).some((each) => each.id === made.id))
})
check('POST /contexts/{id}/restart', CODE, async (one) => {
  const made = await one.createCodeContext()
  await one.runCode('gone = 1', { context: made })
  await one.restartCodeContext(made)
  assert.equal((await one.runCode('gone', { context: made })).error.name, 'NameError')
  await one.removeCodeContext(made)
})

let one, broken = ''
try {
  one = await Sandbox.create({ timeoutMs: 600_000, metadata })
} catch (error) {
  broken = `${error.name}: ${error.message}`
}
for (const [operation, plane, call] of checks) {
  const line = { operation, plane }
  try {
    if (!one) throw new Error(`no sandbox: ${broken}`)
    await call(one)
    line.works = true
  } catch (error) {
    line.works = false
    line.message = `${error.name}: ${error.message}`.slice(0, 600)
  }
  process.stdout.write(JSON.stringify(line) + '\n')
}
if (one) await one.kill()
process.exit(0)
