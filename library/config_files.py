#!/usr/bin/python3
"""Write all configuration files of a role in one round trip, all or none."""

from __future__ import annotations

import grp
import os
import pwd
import shutil
import stat
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.placing import place_file, place_link

DOCUMENTATION = r"""
module: config_files
short_description: Writes many configuration files at once, all or none
description:
  - Compares each file, directory and link with what the host has and changes what differs, each by an atomic rename.
  - One task and one round trip for a whole role, where a template task each would cost two round trips a file.
  - When I(check) is given, it runs after a change with all new files in place; when it fails, every file is put
    back as it was and the task fails with the checker's message, so that a daemon never meets a refused file.
  - Missing parent directories are made, owned by root.
  - Supports check mode and diff. The content of a file marked I(secret) is in no diff and in no result.
options:
  files:
    description: What should be there, in order.
    type: list
    elements: dict
    required: true
    suboptions:
      path:
        description: Absolute path on the host.
        type: path
        required: true
      template:
        description: Jinja template to render on the controller, looked up like that of C(ansible.builtin.template).
        type: str
      content:
        description: Text of the file.
        type: str
      secret:
        description: Keep the content out of diffs and results.
        type: bool
        default: false
      link:
        description: Target of a symbolic link to make at I(path).
        type: str
      state:
        description: What I(path) is; C(absent) removes a file, a link or an empty directory.
        type: str
        choices: [file, directory, absent]
        default: file
      owner:
        description: Owner's name.
        type: str
        default: root
      group:
        description: Group's name.
        type: str
        default: root
      mode:
        description: Permissions in octal; default 0644 for files and 0755 for directories.
        type: str
  check:
    description: Command, as a list of arguments, that proves the files that were written.
    type: list
    elements: str
"""

EXAMPLES = r"""
- name: Configure | Write the site
  config_files:
    files:
      - {template: site.conf.j2, path: /etc/nginx/conf.d/site.conf}
      - {path: /etc/nginx/sites-enabled/default, state: absent}
      - {template: key.pem.j2, path: /etc/nginx/key.pem, mode: "0600", secret: true}
    check: [nginx, -t]
"""

RETURN = r"""
changed_paths:
  description: Paths that were changed, or would be in check mode.
  type: list
  elements: str
  returned: always
"""

SHORT = 200_000


class RefusedError(Exception):
    """A wish that the host can't fulfil, in words for a person."""


class Entry:
    """One wished path: knows what is there, whether it differs, how to change it and how to put it back."""

    def __init__(self, wish: dict[str, Any], check_mode: bool):
        self.path = Path(wish["path"])
        self.link = wish["link"]
        self.secret = wish["secret_content"] is not None
        text = wish["secret_content"] if self.secret else wish["content"]
        self.content = None if text is None else text.encode()
        self.state = "link" if self.link is not None else wish["state"]
        self.mode = int(wish["mode"] or ("0755" if self.state == "directory" else "0644"), 8)
        if self.state == "file" and self.content is None:
            raise RefusedError(f"{self.path}: a file needs template or content")
        self.uid = self._number(wish["owner"], pwd.getpwnam, "pw_uid", check_mode)
        self.gid = self._number(wish["group"], grp.getgrnam, "gr_gid", check_mode)
        self.owner = f"{wish['owner']}:{wish['group']}"
        self.before = self._look()

    def _number(self, name: str, look_up: Any, field: str, check_mode: bool) -> int:
        try:
            return getattr(look_up(name), field)
        except KeyError:
            # In check mode on a fresh host the package that makes the user is not installed yet.
            if check_mode:
                return -1
            raise RefusedError(f"{self.path}: this host has no user or group {name!r}") from None

    def _look(self) -> dict[str, Any]:
        try:
            status = self.path.lstat()
        except (FileNotFoundError, NotADirectoryError):
            return {"kind": "absent"}
        seen = {"uid": status.st_uid, "gid": status.st_gid, "mode": stat.S_IMODE(status.st_mode)}
        if stat.S_ISLNK(status.st_mode):
            return {"kind": "link", "link": str(self.path.readlink()), **seen}
        if stat.S_ISDIR(status.st_mode):
            return {"kind": "directory", **seen}
        return {"kind": "file", "content": self.path.read_bytes(), **seen}

    @property
    def differs(self) -> bool:
        before = self.before
        if before["kind"] != self.state:
            return True
        if self.state == "absent":
            return False
        if self.state == "link":
            return before["link"] != self.link
        if self.state == "file" and before["content"] != self.content:
            return True
        return (before["uid"], before["gid"], before["mode"]) != (self.uid, self.gid, self.mode)

    def apply(self) -> None:
        kind = self.before["kind"]
        if kind == "directory" and self.state not in ("directory", "absent"):
            raise RefusedError(f"{self.path}: is a directory, and is not replaced")
        if self.state == "absent":
            self.path.rmdir() if kind == "directory" else self.path.unlink()
        elif self.state == "directory":
            if kind not in ("absent", "directory"):
                raise RefusedError(f"{self.path}: is a {kind}, and is not replaced by a directory")
            self._make_directory(self.uid, self.gid, self.mode)
        elif self.state == "link":
            place_link(self.path, self.link)
        else:
            place_file(self.path, self.content or b"", self.mode, self.uid, self.gid)

    def put_back(self) -> None:
        before = self.before
        if before["kind"] == "link":
            place_link(self.path, before["link"])
        elif before["kind"] == "file":
            place_file(self.path, before["content"], before["mode"], before["uid"], before["gid"])
        elif before["kind"] == "directory":
            self._make_directory(before["uid"], before["gid"], before["mode"])
        elif self.path.is_dir() and not self.path.is_symlink():
            shutil.rmtree(self.path)
        else:
            self.path.unlink(missing_ok=True)

    def _make_directory(self, uid: int, gid: int, mode: int) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        os.chown(self.path, uid, gid)
        self.path.chmod(mode)

    def diff(self) -> dict[str, str]:
        before_text, after_text = self._shown("before", self.before.get("content")), self._shown("after", self.content)
        if self.before["kind"] == "link":
            before_text = f"link to {self.before['link']}\n"
        if self.state == "link":
            after_text = f"link to {self.link}\n"
        return {
            "before_header": f"{self.path} ({self._described(self.before)})",
            "after_header": f"{self.path} ({self._wished()})",
            "before": before_text,
            "after": after_text,
        }

    def _shown(self, when: str, content: bytes | None) -> str:
        if content is None:
            return ""
        if self.secret:
            return f"(secret, {when})\n"
        if len(content) > SHORT or b"\0" in content:
            return "(not shown)\n"
        return content.decode(errors="replace")

    def _described(self, seen: dict[str, Any]) -> str:
        if seen["kind"] in ("absent", "link"):
            return seen["kind"]
        return f"{seen['kind']} {seen['uid']}:{seen['gid']} {seen['mode']:04o}"

    def _wished(self) -> str:
        if self.state in ("absent", "link"):
            return self.state
        return f"{self.state} {self.owner} {self.mode:04o}"


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "files": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "path": {"type": "path", "required": True},
                    "content": {"type": "str"},
                    "secret_content": {"type": "str", "no_log": True},
                    "link": {"type": "str"},
                    "state": {"type": "str", "choices": ["file", "directory", "absent"], "default": "file"},
                    "owner": {"type": "str", "default": "root"},
                    "group": {"type": "str", "default": "root"},
                    "mode": {"type": "str"},
                },
            },
            "check": {"type": "list", "elements": "str"},
        },
        supports_check_mode=True,
    )
    result: dict[str, Any] = {"changed": False, "changed_paths": [], "diff": []}
    changed: list[Entry] = []
    try:
        # Each entry is looked at after the ones before it are in place, so that a directory's files find it made.
        for wish in module.params["files"]:
            entry = Entry(wish, module.check_mode)
            if not entry.differs:
                continue
            changed.append(entry)
            if not module.check_mode:
                entry.apply()
        if changed and module.params["check"] and not module.check_mode:
            code, out, error = module.run_command(module.params["check"])
            if code != 0:
                raise RefusedError(
                    f"{' '.join(module.params['check'])} refuses the new files: {(error or out).strip()}"
                )
    except (RefusedError, OSError) as problem:
        if not module.check_mode:
            for entry in reversed(changed):
                entry.put_back()
        module.fail_json(msg=f"{problem}. Every file is as it was.")
    result["changed"] = bool(changed)
    result["changed_paths"] = [str(entry.path) for entry in changed]
    if module._diff:
        result["diff"] = [entry.diff() for entry in changed]
    module.exit_json(**result)


if __name__ == "__main__":
    main()
