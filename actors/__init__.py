"""Actors: mailboxes, supervision, feed connections, router, subscription index, broadcaster and clients."""
