"""A card's text in a file of format 2: deflated, with a dictionary of the words and phrases that cards are made of."""

from __future__ import annotations

import zlib

MOST_BYTES = 2**22
"""The longest text of a card, so that no file makes its reader inflate more."""

DICTIONARY = (
    b'"random","hand","published","matched":null,"rounded":null},"supernet_error":null,"ste","float32","float16"'
    b'["none",0],["avg_pool_3x3",1],["sep_conv_3x3",2],["sep_conv_5x5",3],["dil_conv_3x3",4],["dil_conv_5x5",5],'
    b'["bin_dil_conv_5x5",6],["bin_dil_conv_3x3",7],["bin_conv_5x5",8],["bin_conv_3x3",9],["max_pool_3x3",10],'
    b'["skip_connect",11],{"network":{"name":"front-1","role":"front","genotype":{"space":"darts","bnas","normal":'
    b'[[["skip_connect",0],["skip_connect",1]],[["bin_conv_3x3",1],["max_pool_3x3",2]],[["bin_conv_3x3",0],'
    b'["bin_conv_3x3",3]]],"reduction":[[["max_pool_3x3",0],["bin_conv_3x3",1]],[["skip_connect",1],["avg_pool_3x3",2]],'
    b'[["bin_conv_5x5",0],["skip_connect",1]]]},"channels":8,"cells":3,"size_bytes":1234.0,"params":4578,"ops":18796.0,'
    b'"supernet_error":0.4775,"wrong":82,"test_images":1000,"epochs":10,"matched":"front-1","rounded":{"images":800,'
    b'"changed":1,"wrong_before":12,"wrong":12}},"config":{"in_channels":1,"classes":10,"channels":8,"cells":3,'
    b'"stem_stride":2,"sign":"approx","shipped":"int8"},"title":"CIFAR-10","MNIST (5,000 digits)","classes":["0","1",'
    b'"2","3","4","5","6","7","8","9"],"image":{"height":28,"width":28,"channels":1,"resize":null},"mean":[0.130664],'
    b'"std":[0.307779],"data":"0123456789abcdef'
)
"""The dictionary of the deflated text. It is part of the format: with a letter changed, older files are unreadable."""


def deflated(text: str) -> bytes:
    """The bytes that stand for a card's text; raises ValueError for one that no reader would inflate."""
    content = text.encode()
    if len(content) > MOST_BYTES:
        raise ValueError(f"card: expected at most {MOST_BYTES:,} bytes of text, found {len(content):,}")
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS, zdict=DICTIONARY)
    return packer.compress(content) + packer.flush()


def inflated(content: bytes) -> str:
    """The inverse of `deflated`. Raises ValueError for other bytes, and before the text is longer than `MOST_BYTES`."""
    reader = zlib.decompressobj(-zlib.MAX_WBITS, DICTIONARY)
    try:
        text = reader.decompress(content, MOST_BYTES)
    except zlib.error as error:
        raise ValueError(f"expected a deflated text, found a broken one ({error})") from None
    if not reader.eof or reader.unused_data:
        raise ValueError(f"expected a deflated text of at most {MOST_BYTES:,} bytes, found another length")
    return text.decode()
