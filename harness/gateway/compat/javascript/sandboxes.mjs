// Sandboxes: their life, what is known of them, their addresses.
import assert from 'node:assert/strict'
import { Sandbox } from '@e2b/code-interpreter'
import { HOME, ODD, ODD_NAME, ODD_PATH, probe } from './registry.mjs'

const minute = { timeoutMs: 60_000 }

probe('Sandbox.create', async (world) => {
  const metadata = { made: 'by the SDK', [ODD_NAME]: ODD }
  const made = await world.create({ ...minute, metadata, envs: { A: ODD } })
  const known = (await made.getInfo()).metadata
  assert.deepEqual({ ...known, ...metadata }, known)
  assert.equal((await made.commands.run('printf %s "$A"')).stdout, ODD)
  assert.equal(await made.kill(), true)
  await assert.rejects(world.create(minute, 'no such/té mplate%20+'), /not found/)
})
probe('sandbox.get_info', 'Sandbox.get_full_info', async (world, name) => {
  const info = name === 'get_info' ? await world.box.getInfo() : await Sandbox.getFullInfo(world.box.sandboxId)
  assert.equal(info.sandboxId, world.box.sandboxId)
  assert.deepEqual(info.metadata, world.metadata)
  assert.ok(info.endAt > info.startedAt && info.templateId)
})
probe('sandbox.is_running', async (world) => {
  assert.equal(await world.box.isRunning(), true)
  const made = await world.create(minute)
  await made.kill()
  assert.equal(await made.isRunning(), false)
})
probe('sandbox.kill', async (world) => {
  const made = await world.create(minute)
  assert.equal(await Sandbox.kill(made.sandboxId), true)
  assert.equal(await made.kill(), false)
})
probe('Sandbox.list', async (world) => {
  const pages = Sandbox.list({ query: { metadata: world.metadata }, limit: 10 })
  assert.deepEqual((await pages.nextItems()).map((each) => each.sandboxId), [world.box.sandboxId])
  assert.equal(pages.hasNext, false)
  for (const character of ODD) {
    const wrong = { ...world.metadata, [ODD_NAME]: ODD.replaceAll(character, '') }
    assert.deepEqual(await Sandbox.list({ query: { metadata: wrong } }).nextItems(), [])
  }
})
probe('sandbox_paginator.next_items', async (world) => {
  const metadata = { page: world.name }
  const made = [await world.create({ ...minute, metadata }), await world.create({ ...minute, metadata })]
  const pages = Sandbox.list({ query: { metadata }, limit: 1 })
  const ids = (await pages.nextItems()).map((each) => each.sandboxId)
  assert.ok(ids.length === 1 && pages.hasNext)
  ids.push(...(await pages.nextItems()).map((each) => each.sandboxId))
  assert.deepEqual(new Set(ids), new Set(made.map((each) => each.sandboxId)))
  assert.equal(pages.hasNext, false)
  for (const each of made) await each.kill()
})
probe('sandbox.get_metrics', async (world) => {
  const last = (await world.box.getMetrics()).at(-1)
  assert.ok(last.memTotal > 0 && last.diskTotal > 0)
})
probe('sandbox.set_timeout', async (world) => {
  const before = (await world.box.getInfo()).endAt
  await world.box.setTimeout(1_200_000)
  assert.ok((await world.box.getInfo()).endAt - before > 300_000)
})
probe('sandbox.update_network', async (world) => {
  await world.box.updateNetwork({ denyOut: ['203.0.113.0/24'] })
  const { network } = await world.box.getInfo()
  if (network) assert.ok(JSON.stringify(network).includes('203.0.113.0/24'))
})

// A server that starts quickly where Python is slow.
const SERVER = `
import socket
listener = socket.create_server(("127.0.0.1", 8000))
while True:
    connection, _ = listener.accept()
    if connection.recv(65536):
        connection.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 6\\r\\n\\r\\nserved")
    connection.close()
`
// Opened as by a browser: a plain GET of the address, with the scheme of the API's.
probe('sandbox.get_host', async (world) => {
  await world.box.files.write('serve.py', SERVER)
  const begun = await world.box.commands.run('python3 -S serve.py', { background: true })
  try {
    const listens = 'until (: < /dev/tcp/127.0.0.1/8000) 2> /dev/null; do sleep 0.05; done'
    await world.box.commands.run(listens, { timeoutMs: 30_000 })
    const answer = await fetch(`${new URL(process.env.E2B_API_URL).protocol}//${world.box.getHost(8000)}/`)
    assert.deepEqual([answer.status, await answer.text()], [200, 'served'])
  } finally {
    await begun.kill()
  }
})
const SIGNED = [{}, { user: 'root' }, { useSignatureExpiration: 600 }]
const broken = (address) => address.replace('v1_', 'v1_x')
probe('sandbox.download_url', async (world) => {
  await world.box.files.write(ODD_PATH, 'signed')
  let address
  for (const options of SIGNED) {
    address = await world.box.downloadUrl(`${HOME}/${ODD_PATH}`, options)
    assert.equal(await (await fetch(address)).text(), 'signed')
  }
  assert.ok([401, 403, 404].includes((await fetch(broken(address))).status))
})
// A form with a file, which E2B documents for this address.
probe('sandbox.upload_url', async (world) => {
  const path = `${HOME}/${ODD_PATH}.new`
  let address
  const send = async (to) => {
    const body = new FormData()
    body.append('file', new Blob([ODD]), 'a.bin')
    return (await fetch(to, { method: 'POST', body })).status
  }
  for (const options of SIGNED) {
    address = await world.box.uploadUrl(path, options)
    assert.equal(await send(address), 200)
    assert.equal(await world.box.files.read(path), ODD)
    await world.box.files.remove(path)
  }
  assert.ok([401, 403, 404].includes(await send(broken(address))))
})

probe('sandbox.pause', (world) => world.paused())
probe('sandbox.beta_pause', async (world) => {
  const made = await world.create()
  await made.betaPause()
  assert.equal((await made.getInfo()).state, 'paused')
  await made.kill()
})
probe('sandbox.connect', async (world) => {
  const made = await world.paused()
  world.take('paused')
  const again = await Sandbox.connect(made.sandboxId, minute)
  assert.equal(await again.files.read('kept.txt'), 'kept')
  await again.connect(minute) // it runs already
  assert.equal((await again.getInfo()).state, 'running')
  await again.kill()
})
probe('sandbox.fork', async (world) => {
  await world.box.files.write('before.txt', 'before')
  await world.wait(2)
  const forks = await world.box.fork({ count: 2, ...minute })
  assert.equal(forks.length, 2)
  for (const [number, fork] of forks.entries()) {
    if (fork instanceof Error) throw fork
    assert.equal(await fork.files.read('before.txt'), 'before')
    await fork.files.write('own.txt', String(number))
  }
  assert.deepEqual(await Promise.all(forks.map((fork) => fork.files.read('own.txt'))), ['0', '1'])
  for (const fork of forks) assert.equal(await fork.kill(), true)
})
probe('sandbox.create_snapshot', async (world) => {
  const made = await world.snapshot()
  const copy = await world.create({ ...minute, metadata: { [ODD_NAME]: ODD } }, made.snapshotId)
  assert.equal(await copy.files.read('in-the-snapshot.txt'), 'here')
  assert.equal((await copy.getInfo()).metadata[ODD_NAME], ODD)
  await copy.kill()
})
const ids = async (pages) => {
  const found = []
  while (pages.hasNext) found.push(...(await pages.nextItems()).map((each) => each.snapshotId))
  return found
}
probe('sandbox.list_snapshots', async (world) => {
  const made = await world.snapshot()
  for (const pages of [Sandbox.listSnapshots(), world.box.listSnapshots()]) assert.ok((await ids(pages)).includes(made.snapshotId))
})
probe('snapshot_paginator.next_items', async (world) => {
  const made = await world.snapshot()
  assert.deepEqual((await world.box.listSnapshots({ limit: 1 }).nextItems()).map((each) => each.snapshotId), [made.snapshotId])
})
probe('Sandbox.delete_snapshot', async (world) => {
  const made = await world.snapshot()
  world.take('snapshot')
  assert.equal(await Sandbox.deleteSnapshot(made.snapshotId), true)
  assert.equal(await Sandbox.deleteSnapshot(made.snapshotId), false)
  assert.ok(!(await ids(world.box.listSnapshots())).includes(made.snapshotId))
})
probe('sandbox.get_mcp_url', 'sandbox.get_mcp_token', async (world, name) => {
  const made = await world.keep('mcp', 'Sandbox.create(mcp=...)', () => world.create({ mcp: { time: {} } }))
  if (name === 'get_mcp_token') assert.ok(await made.getMcpToken())
  else assert.ok(![404, 502].includes((await fetch(made.getMcpUrl())).status))
})
