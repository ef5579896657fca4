// Git in a sandbox: the SDK runs the program there, so the template must have it.
import assert from 'node:assert/strict'
import { HOME, probe } from './registry.mjs'

const REPOSITORY = `${HOME}/repository`, REMOTE = `${HOME}/remote.git`
const AUTHOR = { authorName: 'A', authorEmail: 'a@example.com' }

// A repository with one commit, whose remote is a bare one beside it.
const repository = (world) => world.keep('repository', 'git.init', async () => {
  const { git } = world.box
  await git.init(REMOTE, { bare: true, initialBranch: 'main' })
  await git.init(REPOSITORY, { initialBranch: 'main' })
  await commit(world, 'first.txt')
  await git.remoteAdd(REPOSITORY, 'origin', REMOTE)
  await git.push(REPOSITORY, { remote: 'origin', branch: 'main' })
  return git
})
async function commit(world, file) {
  await world.box.files.write(`${REPOSITORY}/${file}`, file)
  await world.box.git.add(REPOSITORY)
  await world.box.git.commit(REPOSITORY, `add ${file}`, AUTHOR)
}

probe('git.init', 'git.remote_add', 'git.push', async (world) => {
  const git = await repository(world)
  assert.equal(await git.remoteGet(REPOSITORY, 'origin'), REMOTE)
  assert.equal((await world.box.commands.run(`ls ${REMOTE}/refs/heads`)).stdout, 'main\n')
})
probe('git.remote_get', async (world) => {
  const git = await repository(world)
  assert.equal(await git.remoteGet(REPOSITORY, 'origin'), REMOTE)
  assert.equal(await git.remoteGet(REPOSITORY, 'none'), undefined)
})
probe('git.status', 'git.add', async (world, name) => {
  const git = await repository(world)
  await world.box.files.write(`${REPOSITORY}/${name}.txt`, 'x')
  const status = await git.status(REPOSITORY)
  assert.ok(status.currentBranch === 'main' && status.hasUntracked)
  await git.add(REPOSITORY, { files: [`${name}.txt`] })
  assert.ok((await git.status(REPOSITORY)).hasStaged)
  await git.commit(REPOSITORY, name, AUTHOR)
})
probe('git.commit', async (world) => {
  const git = await repository(world)
  await commit(world, 'second.txt')
  assert.ok((await git.status(REPOSITORY)).isClean)
})
probe('git.branches', 'git.create_branch', 'git.checkout_branch', 'git.delete_branch', async (world, name) => {
  const git = await repository(world)
  await git.createBranch(REPOSITORY, name)
  const during = await git.branches(REPOSITORY)
  assert.ok(during.currentBranch === name && during.branches.includes('main'))
  await git.checkoutBranch(REPOSITORY, 'main')
  await git.deleteBranch(REPOSITORY, name, { force: true })
  const after = await git.branches(REPOSITORY)
  assert.ok(after.currentBranch === 'main' && !after.branches.includes(name))
})
probe('git.reset', 'git.restore', async (world, name) => {
  const git = await repository(world)
  const path = `${REPOSITORY}/first.txt`
  await world.box.files.write(path, 'changed')
  if (name === 'reset') await git.reset(REPOSITORY, { mode: 'hard' })
  else await git.restore(REPOSITORY, { paths: ['first.txt'] })
  assert.equal(await world.box.files.read(path), 'first.txt')
})
probe('git.clone', 'git.pull', async (world, name) => {
  const git = await repository(world)
  const copy = `${HOME}/${name}`
  await git.clone(REMOTE, { path: copy })
  assert.equal(await world.box.files.read(`${copy}/first.txt`), 'first.txt')
  if (name === 'clone') return
  await commit(world, 'third.txt')
  await git.push(REPOSITORY, { remote: 'origin', branch: 'main' })
  await git.pull(copy, { remote: 'origin', branch: 'main' })
  assert.ok(await world.box.files.exists(`${copy}/third.txt`))
})
probe('git.set_config', 'git.get_config', async (world, name) => {
  const git = await repository(world)
  const where = { scope: 'local', path: REPOSITORY }
  await git.setConfig('coppice.probe', name, where)
  assert.equal(await git.getConfig('coppice.probe', where), name)
})
probe('git.configure_user', async (world) => {
  const git = await repository(world)
  await git.configureUser('A', 'a@example.com')
  assert.equal(await git.getConfig('user.email'), 'a@example.com')
})
probe('git.dangerously_authenticate', async (world) => {
  const git = await repository(world)
  await git.dangerouslyAuthenticate({ username: 'user', password: 'secret', host: 'git.example' })
  const shown = await world.box.commands.run("printf 'protocol=https\\nhost=git.example\\n\\n' | git credential fill")
  assert.match(shown.stdout, /password=secret/)
})
