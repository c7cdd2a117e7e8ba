"""A database backend for Django on a replica: `"ENGINE": "vfs.django"` (docs/guide/django.md)."""
