#!/usr/bin/python3
"""Documentation of the action plugin app_source, which does all of its work on the controller."""

DOCUMENTATION = r"""
module: app_source
short_description: Turns an app's source and version into an archive that no longer changes
description:
  - Runs on the controller, so that a server needs neither git nor a key to the repository.
  - A git URL is asked for the version (a branch, a tag, or a commit in full or abbreviated), and what is not in the
    cache yet is fetched. The archive holds what git tracks in that commit, without submodules.
  - A directory inside a git work tree gives its files that git tracks or does not ignore, as they are now; with
    I(version) given, what that version of the repository holds below the directory. Any other directory gives all its
    files but those that never belong into a release, such as C(.git), C(.venv), C(node_modules) and C(__pycache__).
  - All sources are looked at, and all problems are named at once.
  - Changes nothing but the controller's cache, and works in check mode.
options:
  apps:
    description: Mappings with C(name), C(source) and C(version); other keys are let pass.
    type: list
    elements: dict
    required: true
  base:
    description: Directory from which a relative source is meant.
    type: path
    required: true
  cache:
    description: Directory for archives and fetched repositories.
    type: path
    required: true
"""

EXAMPLES = r"""
- name: Find the sources
  app_source:
    apps: [{name: shop, source: "https://git.example/shop.git", version: main}]
    base: "{{ role_path | dirname | dirname }}"
    cache: "{{ role_path | dirname | dirname }}/.cache/sources"
  run_once: true
"""

RETURN = r"""
sources:
  description:
    - For each app's name a mapping of C(id) (ten characters of the commit or of a hash over the files), C(archive)
      (path of the tar.gz on the controller), C(version) (what it was resolved to, for people), C(procfile) and
      C(python_version) (text of these files, empty where there is none).
  type: dict
  returned: always
run:
  description: Who runs this, as C(who) and C(since), and a C(token) that no other run has.
  type: dict
  returned: success
problems:
  description: Sources that cannot be had, in words.
  type: list
  elements: str
  returned: failure
"""
