"""Fixed lists of code points, as the documents write them: `0-1F 7F AD`, in hexadecimal."""


def ranges(words):
    pairs = [word.split("-") for word in words.split()]
    return [(int(pair[0], 16), int(pair[-1], 16)) for pair in pairs]


LAST_TWO = [(plane << 16 | 0xFFFE, plane << 16 | 0xFFFF) for plane in range(17)]  # of every plane


def holds(list_, char):
    return any(first <= ord(char) <= last for first, last in list_)


def joined(list_):
    """The same list sorted, with ranges that touch made one."""
    result = []
    for first, last in sorted(list_):
        if result and first <= result[-1][1] + 1:
            first, last = result[-1][0], max(last, result.pop()[1])
        result.append((first, last))
    return result
