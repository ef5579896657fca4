"""Git in a sandbox: the SDK runs the program there, so the template must have it."""

from __future__ import annotations

from registry import expect, probe

HOME = "/home/user"
REPOSITORY, REMOTE = f"{HOME}/repository", f"{HOME}/remote.git"
AUTHOR = {"author_name": "A", "author_email": "a@example.com"}


async def repository(world):
    """A repository with one commit, whose remote is a bare one beside it."""
    git = world.box.git

    async def make():
        await world.do(git.init(REMOTE, bare=True, initial_branch="main"))
        await world.do(git.init(REPOSITORY, initial_branch="main"))
        await commit(world, "first.txt")
        await world.do(git.remote_add(REPOSITORY, "origin", REMOTE))
        await world.do(git.push(REPOSITORY, "origin", "main"))
        return git

    return await world.kept("repository", "git.init", make)


async def commit(world, file):
    git = world.box.git
    await world.do(world.box.files.write(f"{REPOSITORY}/{file}", file))
    await world.do(git.add(REPOSITORY))
    await world.do(git.commit(REPOSITORY, f"add {file}", **AUTHOR))


@probe("git.init", "git.remote_add", "git.push")
async def _(world, name):
    git = await repository(world)
    expect(await world.do(git.remote_get(REPOSITORY, "origin")) == REMOTE, "another remote")
    pushed = await world.do(world.box.commands.run(f"ls {REMOTE}/refs/heads"))
    expect(pushed.stdout == "main\n", pushed)


@probe("git.remote_get")
async def _(world):
    git = await repository(world)
    expect(await world.do(git.remote_get(REPOSITORY, "origin")) == REMOTE, "another remote")
    expect(await world.do(git.remote_get(REPOSITORY, "none")) is None, "a remote")


@probe("git.status", "git.add")
async def _(world, name):
    git = await repository(world)
    await world.do(world.box.files.write(f"{REPOSITORY}/{name}.txt", "x"))
    status = await world.do(git.status(REPOSITORY))
    expect(status.current_branch == "main" and status.has_untracked, status)
    await world.do(git.add(REPOSITORY, [f"{name}.txt"]))
    expect((await world.do(git.status(REPOSITORY))).has_staged, "nothing staged")
    await world.do(git.commit(REPOSITORY, name, **AUTHOR))


@probe("git.commit")
async def _(world):
    git = await repository(world)
    await commit(world, "second.txt")
    expect((await world.do(git.status(REPOSITORY))).is_clean, "not clean")


@probe("git.branches", "git.create_branch", "git.checkout_branch", "git.delete_branch")
async def _(world, name):
    git = await repository(world)
    await world.do(git.create_branch(REPOSITORY, name))
    found = await world.do(git.branches(REPOSITORY))
    expect(found.current_branch == name and {"main", name} <= set(found.branches), found)
    await world.do(git.checkout_branch(REPOSITORY, "main"))
    await world.do(git.delete_branch(REPOSITORY, name, force=True))
    found = await world.do(git.branches(REPOSITORY))
    expect(found.current_branch == "main" and name not in found.branches, found)


@probe("git.reset", "git.restore")
async def _(world, name):
    git = await repository(world)
    path = f"{REPOSITORY}/first.txt"
    await world.do(world.box.files.write(path, "changed"))
    if name == "reset":
        await world.do(git.reset(REPOSITORY, mode="hard"))
    else:
        await world.do(git.restore(REPOSITORY, ["first.txt"]))
    expect(await world.do(world.box.files.read(path)) == "first.txt", "still changed")


@probe("git.clone", "git.pull")
async def _(world, name):
    git = await repository(world)
    copy = f"{HOME}/{name}"
    await world.do(git.clone(REMOTE, copy))
    expect(await world.do(world.box.files.read(f"{copy}/first.txt")) == "first.txt", "no file")
    if name == "pull":
        await commit(world, "third.txt")
        await world.do(git.push(REPOSITORY, "origin", "main"))
        await world.do(git.pull(copy, "origin", "main"))
        expect(await world.do(world.box.files.exists(f"{copy}/third.txt")), "not pulled")


@probe("git.set_config", "git.get_config")
async def _(world, name):
    git = await repository(world)
    await world.do(git.set_config("coppice.probe", name, scope="local", path=REPOSITORY))
    found = await world.do(git.get_config("coppice.probe", scope="local", path=REPOSITORY))
    expect(found == name, found)


@probe("git.configure_user")
async def _(world):
    git = await repository(world)
    await world.do(git.configure_user("A", "a@example.com"))
    found = await world.do(git.get_config("user.email"))
    expect(found == "a@example.com", found)


@probe("git.dangerously_authenticate")
async def _(world):
    git = await repository(world)
    await world.do(git.dangerously_authenticate("user", "secret", host="git.example"))
    shown = await world.do(world.box.commands.run(
        "printf 'protocol=https\\nhost=git.example\\n\\n' | git credential fill"))  # fmt: skip
    expect("password=secret" in shown.stdout, shown)
