"""Chemical elements: symbols and atomic numbers (IUPAC names)."""

from random import Random

from fact import Fact, others

# In order of atomic number, from 1.
ELEMENTS = (
    ("hydrogen", "H"),
    ("helium", "He"),
    ("lithium", "Li"),
    ("beryllium", "Be"),
    ("boron", "B"),
    ("carbon", "C"),
    ("nitrogen", "N"),
    ("oxygen", "O"),
    ("fluorine", "F"),
    ("neon", "Ne"),
    ("sodium", "Na"),
    ("magnesium", "Mg"),
    ("aluminium", "Al"),
    ("silicon", "Si"),
    ("phosphorus", "P"),
    ("sulfur", "S"),
    ("chlorine", "Cl"),
    ("argon", "Ar"),
    ("potassium", "K"),
    ("calcium", "Ca"),
    ("scandium", "Sc"),
    ("titanium", "Ti"),
    ("vanadium", "V"),
    ("chromium", "Cr"),
    ("manganese", "Mn"),
    ("iron", "Fe"),
    ("cobalt", "Co"),
    ("nickel", "Ni"),
    ("copper", "Cu"),
    ("zinc", "Zn"),
    ("gallium", "Ga"),
    ("germanium", "Ge"),
    ("arsenic", "As"),
    ("selenium", "Se"),
    ("bromine", "Br"),
    ("krypton", "Kr"),
    ("rubidium", "Rb"),
    ("strontium", "Sr"),
    ("yttrium", "Y"),
    ("zirconium", "Zr"),
    ("niobium", "Nb"),
    ("molybdenum", "Mo"),
    ("technetium", "Tc"),
    ("ruthenium", "Ru"),
    ("rhodium", "Rh"),
    ("palladium", "Pd"),
    ("silver", "Ag"),
    ("cadmium", "Cd"),
    ("indium", "In"),
    ("tin", "Sn"),
    ("antimony", "Sb"),
    ("tellurium", "Te"),
    ("iodine", "I"),
    ("xenon", "Xe"),
    ("caesium", "Cs"),
    ("barium", "Ba"),
)
_NEIGHBOURS = 4


def element_symbols(rng: Random) -> list[Fact]:
    """Return one question an element: its chemical symbol."""
    symbols = [symbol for _, symbol in ELEMENTS]
    return [
        Fact(
            question=f"What is the chemical symbol of {name}?",
            answer=symbol,
            wrong=_lookalikes(symbols, name, symbol),
        )
        for name, symbol in ELEMENTS
    ]


def atomic_numbers(rng: Random) -> list[Fact]:
    """Return one question an atomic number: the element that has it."""
    names = [name for name, _ in ELEMENTS]
    return [
        Fact(
            question=f"Which element has the atomic number {i + 1}?",
            answer=name,
            wrong=others(names[max(i - _NEIGHBOURS, 0) : i + _NEIGHBOURS + 1], name),
        )
        for i, name in enumerate(names)
    ]


def _lookalikes(symbols: list[str], name: str, symbol: str) -> tuple[str, ...]:
    """Return symbols with the first letter of the name or of its symbol; all others where these are few."""
    alike = others([other for other in symbols if other[0] in {name[0].upper(), symbol[0]}], symbol)
    return alike if len(alike) >= 3 else others(symbols, symbol)
