"""The methods of the installed SDK that call its service, by introspection.

A class method is called as in `Sandbox.create`, a method of an object as in `sandbox.kill`; one
that works as both counts once, as the latter. The asynchronous classes have the same names without
`Async`. Left out are methods that only compose or convert values: those which are no coroutines in
the asynchronous class, unless they belong to the sandbox itself or return an asynchronous object.
"""

from __future__ import annotations

import inspect
import re
import typing

import e2b_code_interpreter as sdk

ASYNC = "Async"
ROOT = "Sandbox"


def methods(asynchronous):
    """The methods of the synchronous or asynchronous classes, sorted."""
    names = set()
    for label, own in _classes(asynchronous).items():
        counterpart = _classes(True).get(label)
        for name in dir(own):
            if name.startswith("_"):
                continue
            kind = _kind(own, name)
            if kind and (label == ROOT or _calls(own, counterpart, name)):
                names |= {f"{_prefix(label, form)}.{name}" for form in kind}
    return sorted(names)


def _classes(asynchronous):
    """The public classes that exist twice, and those which a sandbox's properties return."""
    exported = {name: one for name, one in vars(sdk).items() if inspect.isclass(one)}
    found = {}
    for name, one in exported.items():
        if name.startswith(ASYNC):
            plain = name.removeprefix(ASYNC)
            if asynchronous:
                found[plain] = one
            elif plain in exported:
                found[plain] = exported[plain]
    for name in dir(found[ROOT]):
        returned = _returned(inspect.getattr_static(found[ROOT], name))
        if returned and not name.startswith("_"):
            found[name] = returned
            found.pop(returned.__name__.removeprefix(ASYNC), None)
    return found


def _returned(member):
    """The class of the SDK's objects that a property returns, if it returns such."""
    if not isinstance(member, property):
        return None
    returned = typing.get_type_hints(member.fget).get("return")
    module = getattr(returned, "__module__", "")
    serves = module.startswith(("e2b.sandbox_sync", "e2b.sandbox_async"))
    return returned if serves and inspect.isclass(returned) else None


def _kind(own, name):
    """How a public member is called: of the class, of an object, or both as two methods. None: it
    is no method."""
    member = inspect.getattr_static(own, name)
    if isinstance(member, (classmethod, staticmethod)):
        return ("class",)
    if type(member).__name__ == "DualMethod":  # of volumes: one name for two methods
        return ("class", "object")
    if inspect.isfunction(member) or type(member).__name__ == "class_method_variant":
        return ("object",)
    return None


def _calls(own, asynchronous, name):
    """Whether a method calls the service."""
    if asynchronous is None or not hasattr(asynchronous, name):
        return True  # synchronous only
    function = inspect.unwrap(_function(asynchronous, name))
    returned = str(getattr(function, "__annotations__", {}).get("return", ""))
    return inspect.iscoroutinefunction(function) or ASYNC in returned


def _function(own, name):
    found = getattr(own, name)
    return getattr(found, "__func__", found)


def _prefix(label, form):
    if label[0].islower():
        return label
    return label if form == "class" else re.sub(r"(?<!^)(?=[A-Z])", "_", label).lower()
