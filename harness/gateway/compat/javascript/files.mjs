// Files of a sandbox.
import assert from 'node:assert/strict'
import { NotFoundError } from 'e2b'
import { HOME, ODD, ODD_PATH, probe } from './registry.mjs'

const WITHIN_MS = 10_000
const same = (one, other) => assert.equal(Buffer.compare(Buffer.from(one), Buffer.from(other)), 0, 'other bytes')

probe('files.write', async (world) => {
  const { files } = world.box
  const written = await files.write('form.txt', 'text')
  assert.deepEqual([written.path, written.name], [`${HOME}/form.txt`, 'form.txt'])
  assert.equal(await files.read('form.txt'), 'text')
  const data = new Uint8Array(3 << 20).map((_, index) => (index * 7) % 251)
  await files.write('stream.bin', new Blob([data]), { useOctetStream: true })
  same(await files.read('stream.bin', { format: 'bytes' }), data)
  const every = new Uint8Array(256).map((_, index) => index)
  await files.write(ODD_PATH, every.buffer)
  same(await files.read(ODD_PATH, { format: 'bytes' }), every)
})
probe('files.write_files', async (world) => {
  const { files } = world.box
  const many = [0, 1, 2].map((number) => ({ path: `many/${number}${ODD_PATH}`, data: `${number}${ODD}` }))
  const written = await files.writeFiles(many)
  assert.deepEqual(written.map((each) => each.path), many.map((each) => `${HOME}/${each.path}`))
  for (const each of many) assert.equal(await files.read(each.path), each.data)
})
probe('files.read', async (world) => {
  const { files } = world.box
  await files.write('read.txt', 'text')
  assert.equal(await files.read('read.txt'), 'text')
  same(await files.read('read.txt', { format: 'bytes' }), Buffer.from('text'))
  assert.equal(await (await files.read('read.txt', { format: 'blob' })).text(), 'text')
  const parts = []
  for await (const part of await files.read('read.txt', { format: 'stream' })) parts.push(part)
  assert.equal(Buffer.concat(parts).toString(), 'text')
  await assert.rejects(files.read('missing.txt'), NotFoundError)
})
probe('files.list', async (world) => {
  const { files } = world.box
  await files.write('list/a/b.txt', '')
  assert.deepEqual((await files.list('list', { depth: 2 })).map((each) => each.path), [`${HOME}/list/a`, `${HOME}/list/a/b.txt`])
  assert.deepEqual((await files.list('list')).map((each) => each.name), ['a'])
  await files.write(ODD_PATH, '')
  const [directory, name] = ODD_PATH.split('/')
  assert.ok((await files.list(directory)).some((each) => each.name === name))
})
probe('files.exists', async (world) => {
  await world.box.files.write(ODD_PATH, '1234')
  assert.equal(await world.box.files.exists(ODD_PATH), true)
  assert.equal(await world.box.files.exists(`${ODD_PATH}x`), false)
})
probe('files.get_info', async (world) => {
  const { files } = world.box
  await files.write('stat.txt', '1234')
  const info = await files.getInfo('stat.txt')
  assert.deepEqual([info.size, info.owner, info.path], [4, 'user', `${HOME}/stat.txt`])
  await files.write(ODD_PATH, '1234')
  assert.equal((await files.getInfo(ODD_PATH)).path, `${HOME}/${ODD_PATH}`)
})
probe('files.make_dir', async (world) => {
  for (const path of ['made/deep', `made/${ODD_PATH}`]) {
    assert.equal(await world.box.files.makeDir(path), true)
    assert.equal(await world.box.files.makeDir(path), false)
  }
})
probe('files.rename', async (world) => {
  const { files } = world.box
  await files.write('before.txt', 'moved')
  for (const [before, after] of [['before.txt', 'after.txt'], ['after.txt', ODD_PATH]]) {
    assert.equal((await files.rename(before, after)).path, `${HOME}/${after}`)
    assert.equal(await files.read(after), 'moved')
    assert.equal(await files.exists(before), false)
  }
})
probe('files.remove', async (world) => {
  const { files } = world.box
  for (const [file, removed] of [['directory/file.txt', 'directory'], [ODD_PATH, ODD_PATH]]) {
    await files.write(file, '')
    await files.remove(removed)
    assert.equal(await files.exists(removed), false)
  }
})

// A watch of a new directory, and a promise of the event with a name.
async function watched(world, directory, name) {
  await world.box.files.makeDir(directory)
  let heard
  const event = new Promise((resolve, reject) => {
    heard = (one) => { if (one.name === name) resolve() }
    setTimeout(() => reject(new Error(`no event of ${name}`)), WITHIN_MS).unref()
  })
  return { handle: await world.box.files.watchDir(directory, heard), event }
}
probe('files.watch_dir', async (world) => {
  const name = ODD_PATH.split('/')[1]
  const { handle, event } = await watched(world, 'watched', name)
  await world.box.files.write(`watched/${name}`, 'x')
  await event
  await handle.stop()
})
probe('watch_handle.stop', async (world) => {
  const { handle, event } = await watched(world, 'watched-until', 'first')
  await world.box.files.write('watched-until/first', 'x')
  await event
  await handle.stop()
})
