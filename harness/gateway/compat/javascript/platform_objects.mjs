// What a service has besides sandboxes: templates, volumes, secrets.
import assert from 'node:assert/strict'
import { Sandbox, Secret, Template, Volume } from 'e2b'
import { ODD, ODD_PATH, probe } from './registry.mjs'

const composed = () => Template().fromImage('alpine:3').runCmd('echo built > /built.txt')
// Delete a template at the end of the world: the SDK has this call under another name alone.
const ends = (world, name) => world.atEnd(() => Sandbox.deleteSnapshot(name))
const built = (world) => world.keep('template', 'Template.build_in_background', () => {
  ends(world, world.name)
  return Template.buildInBackground(composed(), world.name)
})

probe('Template.to_json', async () => {
  assert.ok((await Template.toJSON(composed())).includes('/built.txt'))
})
probe('Template.build', async (world) => {
  ends(world, `${world.name}-built`)
  const made = await Template.build(composed(), `${world.name}-built`)
  const box = await world.create({ timeoutMs: 60_000 }, made.templateId)
  assert.equal(await box.files.read('/built.txt'), 'built\n')
  await box.kill()
})
probe('Template.build_in_background', 'Template.get_build_status', async (world) => {
  const made = await built(world)
  const status = await Template.getBuildStatus(made)
  assert.ok(status.templateID === made.templateId || status.templateId === made.templateId)
})
probe('Template.exists', 'Template.alias_exists', async (world, name) => {
  const asked = (template) => (name === 'exists' ? Template.exists(template) : Template.aliasExists(template))
  assert.equal(await asked((await world.box.getInfo()).name ?? 'base'), true)
  assert.equal(await asked(`${world.name}-none`), false)
})
probe('Template.assign_tags', 'Template.get_tags', 'Template.remove_tags', async (world, name) => {
  await built(world)
  const tag = `tag-${name.replaceAll('_', '-')}`
  await Template.assignTags(`${world.name}:default`, [tag])
  const tags = async () => (await Template.getTags(world.name)).map((each) => each.tag)
  assert.ok((await tags()).includes(tag))
  await Template.removeTags(world.name, tag)
  assert.ok(!(await tags()).includes(tag))
})

const volume = (world) => world.keep('volume', 'Volume.create', async () => {
  const made = await Volume.create(world.name)
  world.atEnd(() => Volume.destroy(made.volumeId))
  return made
})
probe('Volume.create', 'Volume.get_info', 'Volume.connect', 'Volume.list', async (world, name) => {
  if (name === 'list') await Volume.list()
  const made = await volume(world)
  const info = name === 'connect' ? await Volume.connect(made.volumeId) : await Volume.getInfo(made.volumeId)
  assert.equal(info.name, world.name)
  assert.ok((await Volume.list()).some((each) => each.volumeId === made.volumeId))
})
probe('volume.write_file', 'volume.read_file', 'volume.get_info', 'volume.exists', async (world, name) => {
  const own = await volume(world), path = `/${name}${ODD_PATH.split('/')[1]}`
  await own.writeFile(path, ODD)
  assert.equal(await own.readFile(path), ODD)
  assert.equal((await own.getInfo(path)).size, Buffer.byteLength(ODD))
  assert.equal(await own.exists(path), true)
  assert.equal(await own.exists(`${path}x`), false)
})
probe('volume.make_dir', 'volume.list', 'volume.remove', 'volume.update_metadata', async (world, name) => {
  const own = await volume(world), directory = `/${name}`
  await own.makeDir(directory)
  await own.writeFile(`${directory}/file.txt`, 'x')
  assert.deepEqual((await own.list(directory)).map((each) => each.name), ['file.txt'])
  if (name === 'update_metadata') assert.equal((await own.updateMetadata(`${directory}/file.txt`, { mode: 0o600 })).mode & 0o777, 0o600)
  await own.remove(`${directory}/file.txt`)
  assert.deepEqual(await own.list(directory), [])
})
probe('Volume.destroy', async (world) => {
  const made = await volume(world)
  world.take('volume')
  assert.equal(await Volume.destroy(made.volumeId), true)
  assert.equal(await Volume.destroy(made.volumeId), false)
})

const secret = (world) => world.keep('secret', 'Secret.create', async () => {
  const made = await Secret.create(world.name, 'hidden')
  world.atEnd(() => Secret.destroy(world.name))
  return made
})
probe('Secret.create', 'Secret.get_info', 'Secret.exists', async (world) => {
  await secret(world)
  const info = await Secret.getInfo(world.name)
  assert.ok(info.name === world.name && !JSON.stringify(info).includes('hidden'))
  assert.equal(await Secret.exists(world.name), true)
  assert.equal(await Secret.exists(`${world.name}-none`), false)
})
probe('Secret.list', 'secret_paginator.next_items', async (world) => {
  const names = async () => {
    const pages = Secret.list({ limit: 100 }), found = []
    while (pages.hasNext) found.push(...(await pages.nextItems()).map((each) => each.name))
    return found
  }
  await names()
  await secret(world)
  assert.ok((await names()).includes(world.name))
})
probe('Secret.update', async (world) => {
  const before = await secret(world)
  const after = await Secret.update(world.name, 'other')
  assert.ok(!JSON.stringify(after).includes('other'))
  assert.notDeepEqual(after, before)
})
probe('Secret.destroy', async (world) => {
  await secret(world)
  world.take('secret')
  assert.equal(await Secret.destroy(world.name), true)
  assert.equal(await Secret.destroy(world.name), false)
})
