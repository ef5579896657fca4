"""What a service has besides sandboxes: templates, volumes, secrets."""

from __future__ import annotations

from registry import ODD, ODD_PATH, expect, probe

# Templates.


def ends(world, name):
    """Delete a template at the end of the world: the SDK has this call under another name alone."""
    if hasattr(world.Sandbox, "delete_snapshot"):
        world.at_end(lambda: world.Sandbox.delete_snapshot(name))


async def built(world):
    """A template that was built in the background: what the SDK knows of it."""

    async def make():
        template = world.Template().from_image("alpine:3").run_cmd("echo built > /built.txt")
        ends(world, world.name)
        return await world.do(world.Template.build_in_background(template, world.name))

    return await world.kept("template", "Template.build_in_background", make)


@probe("Template.build")
async def _(world):
    template = world.Template().from_image("alpine:3").run_cmd("echo built > /built.txt")
    name = f"{world.name}-built"
    ends(world, name)
    made = await world.do(world.Template.build(template, name))
    box = await world.create(made.template_id, timeout=60)
    content = await world.do(box.files.read("/built.txt"))
    expect(content == "built\n", content)
    await world.do(box.kill())


@probe("Template.build_in_background", "Template.get_build_status")
async def _(world, name):
    made = await built(world)
    found = await world.do(world.Template.get_build_status(made))
    expect(found.template_id == made.template_id and found.status, found)


@probe("Template.exists", "Template.alias_exists")
async def _(world, name):
    asked = getattr(world.Template, name)
    known = (await world.do(world.box.get_info())).name or "base"
    expect(await world.do(asked(known)) is True, f"{name}({known!r}) is False")
    expect(await world.do(asked(f"{world.name}-none")) is False, "it exists")


@probe("Template.assign_tags", "Template.get_tags", "Template.remove_tags")
async def _(world, name):
    await built(world)
    Template, tag = world.Template, f"tag-{name.replace('_', '-')}"
    await world.do(Template.assign_tags(f"{world.name}:default", [tag]))
    found = await world.do(Template.get_tags(world.name))
    expect(tag in [one.tag for one in found], found)
    await world.do(Template.remove_tags(world.name, tag))
    found = await world.do(Template.get_tags(world.name))
    expect(tag not in [one.tag for one in found], found)


# Volumes.


async def volume(world):
    async def make():
        made = await world.do(world.Volume.create(world.name))
        world.at_end(lambda: world.Volume.destroy(made.volume_id))
        return made

    return await world.kept("volume", "Volume.create", make)


@probe("Volume.create", "Volume.get_info", "Volume.connect", "Volume.list")
async def _(world, name):
    if name == "list":
        await world.do(world.Volume.list())
    made = await volume(world)
    if name == "connect":
        again = await world.do(world.Volume.connect(made.volume_id))
        expect(again.name == world.name, again)
        return
    info = await world.do(world.Volume.get_info(made.volume_id))
    expect(info.name == world.name, info)
    listed = await world.do(world.Volume.list())
    expect(made.volume_id in [one.volume_id for one in listed], listed)


@probe("volume.write_file", "volume.read_file", "volume.get_info", "volume.exists")
async def _(world, name):
    own, path = await volume(world), f"/{name}{ODD_PATH.partition('/')[2]}"
    await world.do(own.write_file(path, ODD))
    content = await world.do(own.read_file(path))
    expect(content == ODD, content)
    info = await world.do(own.get_info(path))
    expect(info.size == len(ODD.encode()), info)
    expect(await world.do(own.exists(path)) is True, "it does not exist")
    expect(await world.do(own.exists(path + "x")) is False, "it exists")


@probe("volume.make_dir", "volume.list", "volume.remove", "volume.update_metadata")
async def _(world, name):
    own, directory = await volume(world), f"/{name}"
    await world.do(own.make_dir(directory))
    await world.do(own.write_file(f"{directory}/file.txt", "x"))
    listed = await world.do(own.list(directory))
    expect([one.name for one in listed] == ["file.txt"], listed)
    if name == "update_metadata":
        changed = await world.do(own.update_metadata(f"{directory}/file.txt", mode=0o600))
        expect(changed.mode & 0o777 == 0o600, changed)
    await world.do(own.remove(f"{directory}/file.txt"))
    expect(await world.do(own.list(directory)) == [], "the file is still there")


@probe("Volume.destroy")
async def _(world):
    made = await volume(world)
    world.taken("volume")
    expect(await world.do(world.Volume.destroy(made.volume_id)) is True, "not destroyed")
    expect(await world.do(world.Volume.destroy(made.volume_id)) is False, "destroyed twice")


# Secrets.


async def secret(world):
    async def make():
        made = await world.do(world.Secret.create(world.name, "hidden"))
        world.at_end(lambda: world.Secret.destroy(world.name))
        return made

    return await world.kept("secret", "Secret.create", make)


@probe("Secret.create", "Secret.get_info", "Secret.exists")
async def _(world, name):
    await secret(world)
    info = await world.do(world.Secret.get_info(world.name))
    expect(info.name == world.name and "hidden" not in repr(info), info)
    expect(await world.do(world.Secret.exists(world.name)) is True, "it does not exist")
    expect(await world.do(world.Secret.exists(f"{world.name}-none")) is False, "it exists")


@probe("Secret.list", "secret_paginator.next_items")
async def _(world, name):
    pages, found = world.Secret.list(limit=100), []
    while pages.has_next:
        found += await world.do(pages.next_items())
    await secret(world)
    pages, found = world.Secret.list(limit=100), []
    while pages.has_next:
        found += await world.do(pages.next_items())
    expect(world.name in [one.name for one in found], found)


@probe("Secret.update")
async def _(world):
    before = await secret(world)
    after = await world.do(world.Secret.update(world.name, "other"))
    expect("other" not in repr(after) and after != before, after)


@probe("Secret.destroy")
async def _(world):
    await secret(world)
    world.taken("secret")
    expect(await world.do(world.Secret.destroy(world.name)) is True, "not destroyed")
    expect(await world.do(world.Secret.destroy(world.name)) is False, "destroyed twice")
