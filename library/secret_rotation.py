#!/usr/bin/python3
"""Documentation of the action plugin secret_rotation, which does all of its work on the controller."""

DOCUMENTATION = r"""
module: secret_rotation
short_description: Rotates a secret of the site's vault, step by step
description:
  - Writes C(group_vars/all/vault.yml) of the inventory, encrypted as it was, by an atomic rename, and touches no other
    file. It leaves every line alone that is not the secret's. No result holds a secret.
  - What is under way stands in the vault as C(vault_rotation), so that a run that was killed is finished by another.
    Its C(other) is a second value that is good beside the one in use.
options:
  what:
    description: What is to be rotated, and what of the site bears on it.
    type: dict
    required: true
    suboptions:
      kind:
        description: Kind of the secret, C(app), C(ca), C(database), C(redis) or C(replication); another one is refused.
        type: str
      app:
        description: Name of the app, of an app's secret or database.
        type: str
      key:
        description: The app's config var whose secret it is.
        type: str
      apps:
        description: Names of the site's apps.
        type: list
        elements: str
      databases:
        description: Names of those that have a database.
        type: list
        elements: str
      redis_apps:
        description: Names of those that use redis.
        type: list
        elements: str
      servers:
        description: How many database servers there are.
        type: int
  state:
    description:
      - C(checked) looks for mistakes only. C(begun) puts a new secret beside the one in use, unless there is one.
        C(switched) changes the two over. C(ended) forgets the one that is not in use, C(undone) the new one.
    type: str
    choices: [checked, begun, switched, ended, undone]
    default: checked
"""

EXAMPLES = r"""
- name: Put a new password of redis beside the one in use
  secret_rotation:
    what: {kind: redis, apps: [shop], databases: [shop], redis_apps: [shop], servers: 1}
    state: begun
  run_once: true
"""

RETURN = r"""
stage:
  description: How far an earlier run came, C(begun) or C(switched); empty where none is under way.
  type: str
  returned: success
apps:
  description: The apps that have the secret.
  type: list
  elements: str
  returned: success
login:
  description: The database login that is not in use, and is good beside the other one while a rotation is under way.
  type: str
  returned: of a database
vault:
  description: Path of the vault.
  type: str
  returned: success
"""
