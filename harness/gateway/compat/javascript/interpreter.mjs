// The code interpreter: cells and contexts.
import assert from 'node:assert/strict'
import { ODD, ODD_DIRECTORY, probe } from './registry.mjs'

probe('sandbox.run_code', async (world) => {
  const run = (code, options) => world.box.runCode(code, options)
  const done = await run("import sys\nprint('out')\nprint('err', file=sys.stderr)\n6*7")
  assert.deepEqual([done.text, done.logs.stdout, done.logs.stderr], ['42', ['out\n'], ['err\n']])
  const echoed = await run("import os\nprint(os.environ['Q'], end='')", { envs: { Q: ODD } })
  assert.equal(echoed.logs.stdout.join(''), ODD)
  const rich = "class R:\n def _repr_html_(self): return '<b>r</b>'\n def _repr_png_(self): return b'P'\nR()"
  const [shown] = (await run(rich)).results
  assert.deepEqual([shown.html, shown.png], ['<b>r</b>', 'UA=='])
  const failed = await run('def f(): return 1/0\nf()')
  assert.equal(failed.error.name, 'ZeroDivisionError')
  assert.ok(failed.error.traceback.includes('f()'))
})
probe('sandbox.create_code_context', async (world) => {
  const context = await world.context()
  assert.equal((await world.box.runCode('import os\nonly_here = 1\nos.getcwd()', { context })).text, ODD_DIRECTORY)
  assert.equal((await world.box.runCode('only_here')).error?.name, 'NameError')
})
probe('sandbox.list_code_contexts', async (world) => {
  const made = await world.context()
  const listed = await world.box.listCodeContexts()
  assert.ok(listed.some((each) => each.id === made.id) && listed.every((each) => each.language === 'python'))
})
probe('sandbox.restart_code_context', async (world) => {
  const context = await world.context()
  await world.box.runCode('gone = 1', { context })
  await world.box.restartCodeContext(context)
  assert.equal((await world.box.runCode('gone', { context })).error?.name, 'NameError')
})
probe('sandbox.remove_code_context', async (world) => {
  const made = await world.context()
  world.take('context')
  await world.box.removeCodeContext(made)
  assert.ok(!(await world.box.listCodeContexts()).some((each) => each.id === made.id))
})
