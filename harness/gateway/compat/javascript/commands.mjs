// Processes and terminals of a sandbox.
import assert from 'node:assert/strict'
import { CommandExitError } from 'e2b'
import { ODD, ODD_DIRECTORY, probe } from './registry.mjs'

const begin = (world, command, stdin = false) => world.box.commands.run(command, { background: true, ...(stdin ? { stdin } : {}) })
const exits = (code) => (error) => error instanceof CommandExitError && error.exitCode === code
const LENGTH = Buffer.byteLength(ODD)

probe('commands.run', async (world) => {
  const { commands, files } = world.box
  const done = await commands.run('echo out; echo err >&2; pwd; id -un')
  assert.deepEqual([done.stdout, done.stderr], ['out\n/home/user\nuser\n', 'err\n'])
  assert.equal((await commands.run('id -u', { user: 'root' })).stdout, '0\n')
  const got = []
  await commands.run('echo $X', { envs: { X: 'y' }, cwd: '/tmp', onStdout: (text) => { got.push(text) } })
  assert.deepEqual(got, ['y\n'])
  const quoted = ODD.replaceAll("'", "'\\''")
  assert.equal((await commands.run(`printf %s "$X" '${quoted}'`, { envs: { X: ODD } })).stdout, ODD + ODD)
  await files.makeDir(ODD_DIRECTORY)
  assert.equal((await commands.run('pwd', { cwd: ODD_DIRECTORY })).stdout, `${ODD_DIRECTORY}\n`)
  await assert.rejects(commands.run('exit 3'), exits(3))
  await assert.rejects(commands.run('sleep 60', { timeoutMs: 1000 }), { name: 'TimeoutError' })
  await assert.rejects(commands.run('true', { user: 'no süch user' }), /no süch user/)
})
probe('commands.list', async (world) => {
  const begun = await begin(world, 'sleep 60')
  assert.ok((await world.box.commands.list()).some((each) => each.pid === begun.pid))
  await begun.kill()
})
probe('commands.connect', async (world) => {
  const begun = await begin(world, 'read line; echo later $line', true)
  await begun.disconnect()
  const again = await world.box.commands.connect(begun.pid)
  await world.box.commands.sendStdin(begun.pid, 'on\n')
  assert.equal((await again.wait()).stdout, 'later on\n')
})
probe('commands.send_stdin', async (world) => {
  const begun = await begin(world, `head -c ${LENGTH}`, true)
  await world.box.commands.sendStdin(begun.pid, ODD)
  assert.equal((await begun.wait()).stdout, ODD)
})
probe('commands.close_stdin', async (world) => {
  const begun = await begin(world, 'cat', true)
  await world.box.commands.sendStdin(begun.pid, ODD)
  await world.box.commands.closeStdin(begun.pid)
  assert.equal((await begun.wait()).stdout, ODD)
})
probe('commands.kill', async (world) => {
  const begun = await begin(world, 'sleep 60')
  assert.equal(await world.box.commands.kill(begun.pid), true)
  await assert.rejects(begun.wait(), CommandExitError)
  assert.equal(await world.box.commands.kill(begun.pid), false)
})
probe('command_handle.wait', async (world) => {
  const begun = await begin(world, 'echo out; echo err >&2; exit 4')
  await assert.rejects(begun.wait(), (error) => exits(4)(error) && error.stdout === 'out\n' && error.stderr === 'err\n')
})
probe('command_handle.kill', async (world) => {
  const begun = await begin(world, 'sleep 60')
  assert.equal(await begun.kill(), true)
  await assert.rejects(begun.wait(), CommandExitError)
  assert.equal(await begun.kill(), false)
})
probe('command_handle.disconnect', async (world) => {
  const begun = await begin(world, 'sleep 60')
  await begun.disconnect()
  assert.ok((await world.box.commands.list()).some((each) => each.pid === begun.pid))
  await world.box.commands.kill(begun.pid)
})
probe('command_handle.send_stdin', 'command_handle.close_stdin', async (world, name) => {
  const closes = name === 'close_stdin'
  const begun = await begin(world, closes ? 'cat' : `head -c ${LENGTH}`, true)
  await begun.sendStdin(ODD)
  if (closes) await begun.closeStdin()
  assert.equal((await begun.wait()).stdout, ODD)
})

// A shell in a terminal; `printed` collects what it prints.
async function terminal(world, size = { cols: 80, rows: 24 }) {
  const printed = []
  const onData = (data) => { printed.push(Buffer.from(data)) }
  const handle = await world.box.pty.create({ ...size, onData })
  return { handle, onData, printed: async () => (await handle.wait(), Buffer.concat(printed).toString()) }
}
const bytes = (text) => new TextEncoder().encode(text)

probe('pty.create', async (world) => {
  const { handle, printed } = await terminal(world)
  await world.box.pty.sendInput(handle.pid, bytes('stty size; exit 0\n'))
  assert.match(await printed(), /24 80/)
})
probe('pty.resize', async (world) => {
  const { handle, printed } = await terminal(world)
  await world.box.pty.resize(handle.pid, { cols: 100, rows: 30 })
  await world.box.pty.sendInput(handle.pid, bytes('stty size; exit 0\n'))
  assert.match(await printed(), /30 100/)
})
probe('pty.send_input', async (world) => {
  const { handle, printed } = await terminal(world)
  await world.box.pty.sendInput(handle.pid, bytes('echo $((6*7)); exit 0\n'))
  assert.match(await printed(), /42/)
})
probe('pty.connect', async (world) => {
  const { handle } = await terminal(world)
  await handle.disconnect()
  const printed = []
  const again = await world.box.pty.connect(handle.pid, { onData: (data) => { printed.push(Buffer.from(data)) } })
  await world.box.pty.sendInput(handle.pid, bytes('echo $((6*7)); exit 0\n'))
  await again.wait()
  assert.match(Buffer.concat(printed).toString(), /42/)
})
probe('pty.kill', async (world) => {
  const { handle } = await terminal(world)
  assert.equal(await world.box.pty.kill(handle.pid), true)
  await assert.rejects(handle.wait(), CommandExitError)
  assert.equal(await world.box.pty.kill(handle.pid), false)
})
