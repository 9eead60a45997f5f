"""What kind of thing something is, from categories that share no member."""

from random import Random

from fact import Fact, others

CATEGORIES = {
    "a fish": ("trout", "salmon", "cod", "herring", "tuna", "mackerel"),
    "a bird": ("sparrow", "owl", "heron", "magpie", "penguin", "stork"),
    "an insect": ("beetle", "wasp", "moth", "mosquito", "grasshopper", "dragonfly"),
    "a reptile": ("lizard", "crocodile", "tortoise", "cobra", "iguana", "gecko"),
    "a mammal": ("badger", "otter", "camel", "hedgehog", "squirrel", "dolphin"),
    "a tree": ("birch", "willow", "beech", "spruce", "oak", "poplar"),
    "a flower": ("tulip", "daffodil", "orchid", "daisy", "carnation", "crocus"),
    "a musical instrument": ("violin", "trumpet", "cello", "harp", "clarinet", "trombone"),
    "a tool": ("hammer", "chisel", "screwdriver", "spanner", "hacksaw", "crowbar"),
    "a piece of clothing": ("shirt", "jacket", "skirt", "sweater", "scarf", "cardigan"),
    "a piece of furniture": ("wardrobe", "bookcase", "cupboard", "sofa", "stool", "armchair"),
    "a boat": ("canoe", "kayak", "yacht", "ferry", "dinghy", "catamaran"),
    "a dance": ("waltz", "tango", "foxtrot", "rumba", "polka", "samba"),
}


def kinds_of_things(rng: Random) -> list[Fact]:
    """Return one question a thing: which of four categories it belongs to."""
    return [
        Fact(
            question=f"What is {'an' if thing[0] in 'aeio' else 'a'} {thing}?",
            answer=category,
            wrong=others(CATEGORIES, category),
        )
        for category, things in CATEGORIES.items()
        for thing in things
    ]
