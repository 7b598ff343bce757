"""The client side of .ci/e2e: makes the commands that redis-cli sends, and checks what is there through redis-py.

Usage: e2e_client.py PORT generate load|overwrite|delete WORDS
       e2e_client.py PORT check loaded|changed WORDS
       e2e_client.py PORT commands
"""

import sys
import time

import redis

TEXT = b"The quick brown fox jumps over the lazy dog, and every word of the dictionary gets this text as well"
assert len(TEXT) == 100


def words(path):
    """The dictionary's lines with their numbers, from 1 on."""
    with open(path, "rb") as file:
        return list(enumerate(file.read().split(b"\n")[:-1], start=1))


def first_value(number):
    return b"%d %s" % (number, TEXT)


def second_value(number):
    return b"%d again, %s" % (number, TEXT[::-1])


def command(*arguments):
    parts = [b"*%d\r\n" % len(arguments)]
    parts += [b"$%d\r\n%s\r\n" % (len(argument), argument) for argument in arguments]
    return b"".join(parts)


def generate(what, path):
    """Half of the words (even lines) are overwritten, a third (every third line) is deleted after that."""
    for number, word in words(path):
        if what == "load":
            sys.stdout.buffer.write(command(b"SET", word, first_value(number)))
        elif what == "overwrite" and number % 2 == 0:
            sys.stdout.buffer.write(command(b"SET", word, second_value(number)))
        elif what == "delete" and number % 3 == 0:
            sys.stdout.buffer.write(command(b"DEL", word))


def expected(what, path):
    pairs = {word: first_value(number) for number, word in words(path)}
    if what == "changed":
        pairs.update((word, second_value(number)) for number, word in words(path) if number % 2 == 0)
        for number, word in words(path):
            if number % 3 == 0:
                del pairs[word]
    return pairs


def chunks(items, size):
    return [items[start : start + size] for start in range(0, len(items), size)]


def check(client, what, path):
    """Every word has its value: read by keys, and, once there are deletes, found by a scan, which finds no other."""
    began = time.monotonic()
    pairs = expected(what, path)
    if what == "changed":
        found = set(client.scan_iter(count=1000))
        found -= {key for key in found if key.startswith((b"key:", b"counter:", b"mset:", b"test:"))}
        assert found == set(pairs), f"a scan finds {len(found)} words, not {len(pairs)}"
        for number, word in words(path):
            if number % 30 == 0:
                assert client.get(word) is None, f"{word} is deleted and there"
    wrong = []
    for keys in chunks(list(pairs), 1000):
        for key, value in zip(keys, client.mget(keys), strict=True):
            if value != pairs[key]:
                wrong.append((key, value))
    assert not wrong, f"{len(wrong)} of {len(pairs)} words have other values, the first: {wrong[0]}"
    how = "by a scan and " if what == "changed" else ""
    print(f"e2e: {len(pairs)} words checked {how}by their keys in {time.monotonic() - began:.1f} s")


def refuses(call, *arguments):
    try:
        call(*arguments)
    except redis.ResponseError as error:
        return str(error)
    raise AssertionError(f"{arguments} is not refused")


def commands(port):
    """What an application does, in both versions of the protocol."""
    for protocol in (2, 3):
        client = redis.Redis("127.0.0.1", port, protocol=protocol, client_name="e2e")
        name = b"test:%d:" % protocol
        assert client.ping() and client.echo("hello") == b"hello"
        assert client.client_getname() in ("e2e", b"e2e") and client.client_id() > 0
        assert client.set(name + b"a", "1") and client.get(name + b"a") == b"1"
        assert client.set(name + b"a", "2", nx=True) is None and client.set(name + b"b", "2", xx=True) is None
        assert client.set(name + b"b", b"\x00\xff\r\n", nx=True) and client.get(name + b"b") == b"\x00\xff\r\n"
        assert client.incr(name + b"a") == 2 and client.incrby(name + b"a", 40) == 42
        assert client.decr(name + b"a") == 41 and client.decrby(name + b"a", 40) == 1
        assert client.append(name + b"a", "23") == 3 and client.strlen(name + b"a") == 3
        assert client.mset({name + b"c": "3", name + b"d": "4"})
        assert client.mget(name + b"c", name + b"none", name + b"d") == [b"3", None, b"4"]
        assert client.exists(name + b"a", name + b"none", name + b"b") == 2
        assert client.type(name + b"a") == b"string" and client.type(name + b"none") == b"none"
        found = {name + letter for letter in (b"a", b"b", b"c", b"d")}
        assert set(client.scan_iter(match=name + b"*")) == found and set(client.keys(name + b"?")) == found
        assert client.dbsize() >= 4 and "redis_version" in client.info() and client.config_get("save") is not None
        assert client.command_count() > 20
        assert refuses(client.incr, name + b"b") == "value is not an integer or out of range"
        assert refuses(client.execute_command, "NOSUCH", "x").startswith("unknown command 'NOSUCH'")
        assert "wrong number of arguments for 'get' command" in refuses(client.execute_command, "GET")
        with client.pipeline(transaction=False) as pipeline:
            for number in range(1000):
                pipeline.set(name + b"p%d" % number, number)
            for number in range(1000):
                pipeline.get(name + b"p%d" % number)
            replies = pipeline.execute()
        assert replies[:1000] == [True] * 1000 and replies[1000:] == [b"%d" % number for number in range(1000)]
        assert client.delete(*(name + b"p%d" % number for number in range(1000))) == 1000
        assert client.unlink(name + b"a", name + b"b", name + b"c") == 3 and client.get(name + b"a") is None
        assert client.delete(name + b"d", name + b"none") == 1
        client.close()
    print("e2e: redis-py", redis.__version__, "is content with both versions of the protocol")


def main():
    port, what, *rest = sys.argv[1:]
    if what == "generate":
        generate(*rest)
    elif what == "check":
        check(redis.Redis("127.0.0.1", int(port), protocol=3), *rest)
    elif what == "commands":
        commands(int(port))
    else:
        raise SystemExit(__doc__)


main()
