"""Countries: capital, continent and currency; and cities that aren't capitals.

An empty field means that the fact is disputed, has two answers, or is about to change.
"""

from random import Random

from fact import Fact, others

AFRICA, ASIA, EUROPE = "Africa", "Asia", "Europe"
NORTH, SOUTH, OCEANIA = "North America", "South America", "Oceania"
CONTINENTS = (AFRICA, ASIA, EUROPE, NORTH, SOUTH, OCEANIA)

# country, capital, continent, currency
COUNTRIES = (
    ("Algeria", "Algiers", AFRICA, "dinar"),
    ("Angola", "Luanda", AFRICA, "kwanza"),
    ("Botswana", "Gaborone", AFRICA, "pula"),
    ("Cameroon", "Yaounde", AFRICA, ""),
    ("Ethiopia", "Addis Ababa", AFRICA, "birr"),
    ("Ghana", "Accra", AFRICA, "cedi"),
    ("Kenya", "Nairobi", AFRICA, "shilling"),
    ("Libya", "Tripoli", AFRICA, ""),
    ("Madagascar", "Antananarivo", AFRICA, "ariary"),
    ("Mali", "Bamako", AFRICA, ""),
    ("Morocco", "Rabat", AFRICA, "dirham"),
    ("Mozambique", "Maputo", AFRICA, "metical"),
    ("Namibia", "Windhoek", AFRICA, ""),
    ("Nigeria", "Abuja", AFRICA, "naira"),
    ("Rwanda", "Kigali", AFRICA, ""),
    ("Senegal", "Dakar", AFRICA, ""),
    ("South Africa", "", AFRICA, "rand"),
    ("Tunisia", "Tunis", AFRICA, ""),
    ("Uganda", "Kampala", AFRICA, ""),
    ("Zambia", "Lusaka", AFRICA, "kwacha"),
    ("Afghanistan", "Kabul", ASIA, ""),
    ("Bangladesh", "Dhaka", ASIA, "taka"),
    ("Cambodia", "Phnom Penh", ASIA, "riel"),
    ("China", "Beijing", ASIA, "yuan"),
    ("India", "New Delhi", ASIA, "rupee"),
    ("Indonesia", "", "", "rupiah"),
    ("Iraq", "Baghdad", ASIA, ""),
    ("Israel", "", "", "shekel"),
    ("Japan", "Tokyo", ASIA, "yen"),
    ("Jordan", "Amman", ASIA, ""),
    ("Laos", "Vientiane", ASIA, "kip"),
    ("Malaysia", "", ASIA, "ringgit"),
    ("Mongolia", "Ulaanbaatar", ASIA, "tugrik"),
    ("Nepal", "Kathmandu", ASIA, ""),
    ("Pakistan", "Islamabad", ASIA, ""),
    ("Philippines", "Manila", ASIA, "peso"),
    ("Saudi Arabia", "Riyadh", ASIA, "riyal"),
    ("South Korea", "Seoul", ASIA, "won"),
    ("Thailand", "Bangkok", ASIA, "baht"),
    ("Vietnam", "Hanoi", ASIA, "dong"),
    ("Albania", "Tirana", EUROPE, "lek"),
    ("Austria", "Vienna", EUROPE, ""),
    ("Belgium", "Brussels", EUROPE, ""),
    ("Bulgaria", "Sofia", EUROPE, ""),
    ("Croatia", "Zagreb", EUROPE, ""),
    ("Czech Republic", "Prague", EUROPE, "koruna"),
    ("Denmark", "Copenhagen", EUROPE, "krone"),
    ("Finland", "Helsinki", EUROPE, ""),
    ("France", "Paris", EUROPE, "euro"),
    ("Germany", "Berlin", EUROPE, "euro"),
    ("Greece", "Athens", EUROPE, ""),
    ("Hungary", "Budapest", EUROPE, "forint"),
    ("Iceland", "Reykjavik", EUROPE, ""),
    ("Ireland", "Dublin", EUROPE, ""),
    ("Italy", "Rome", EUROPE, "euro"),
    ("Norway", "Oslo", EUROPE, "krone"),
    ("Poland", "Warsaw", EUROPE, "zloty"),
    ("Portugal", "Lisbon", EUROPE, ""),
    ("Romania", "Bucharest", EUROPE, "leu"),
    ("Russia", "Moscow", "", "ruble"),
    ("Serbia", "Belgrade", EUROPE, "dinar"),
    ("Spain", "Madrid", EUROPE, ""),
    ("Sweden", "Stockholm", EUROPE, "krona"),
    ("Switzerland", "", EUROPE, "franc"),
    ("Turkey", "Ankara", "", "lira"),
    ("Ukraine", "Kyiv", EUROPE, "hryvnia"),
    ("United Kingdom", "London", EUROPE, "pound"),
    ("Canada", "Ottawa", NORTH, "dollar"),
    ("Costa Rica", "San Jose", NORTH, "colon"),
    ("Cuba", "Havana", NORTH, ""),
    ("Guatemala", "Guatemala City", NORTH, "quetzal"),
    ("Haiti", "Port-au-Prince", NORTH, "gourde"),
    ("Honduras", "", NORTH, "lempira"),
    ("Jamaica", "Kingston", NORTH, ""),
    ("Mexico", "Mexico City", NORTH, "peso"),
    ("Nicaragua", "Managua", NORTH, ""),
    ("Argentina", "Buenos Aires", SOUTH, ""),
    ("Brazil", "Brasilia", SOUTH, "real"),
    ("Chile", "Santiago", SOUTH, ""),
    ("Colombia", "Bogota", SOUTH, ""),
    ("Ecuador", "Quito", SOUTH, ""),
    ("Paraguay", "Asuncion", SOUTH, "guarani"),
    ("Peru", "Lima", SOUTH, "sol"),
    ("Uruguay", "Montevideo", SOUTH, ""),
    ("Venezuela", "Caracas", SOUTH, ""),
    ("Australia", "Canberra", OCEANIA, "dollar"),
    ("Fiji", "Suva", OCEANIA, ""),
    ("New Zealand", "Wellington", OCEANIA, ""),
    ("Papua New Guinea", "Port Moresby", OCEANIA, "kina"),
    ("Samoa", "Apia", OCEANIA, ""),
)
# The answer stands in the name; for Australia it is the name.
_TELLING_CAPITAL = {"Algeria", "Brazil", "Guatemala", "Mexico", "Tunisia"}
_TELLING_CONTINENT = {"Australia", "South Africa"}
# Forms of one word, never offered against each other.
_ONE_WORD = ({"krona", "krone", "koruna"}, {"riel", "riyal"})

CITIES = (
    ("Barcelona", "Spain"),
    ("Seville", "Spain"),
    ("Milan", "Italy"),
    ("Venice", "Italy"),
    ("Naples", "Italy"),
    ("Munich", "Germany"),
    ("Hamburg", "Germany"),
    ("Stuttgart", "Germany"),
    ("Marseille", "France"),
    ("Lyon", "France"),
    ("Bordeaux", "France"),
    ("Manchester", "United Kingdom"),
    ("Edinburgh", "United Kingdom"),
    ("Porto", "Portugal"),
    ("Krakow", "Poland"),
    ("Gdansk", "Poland"),
    ("Salzburg", "Austria"),
    ("Antwerp", "Belgium"),
    ("Gothenburg", "Sweden"),
    ("Trondheim", "Norway"),
    ("Aarhus", "Denmark"),
    ("Thessaloniki", "Greece"),
    ("Brno", "Czech Republic"),
    ("Odesa", "Ukraine"),
    ("Split", "Croatia"),
    ("Cork", "Ireland"),
    ("Osaka", "Japan"),
    ("Kyoto", "Japan"),
    ("Shanghai", "China"),
    ("Wuhan", "China"),
    ("Mumbai", "India"),
    ("Kolkata", "India"),
    ("Busan", "South Korea"),
    ("Karachi", "Pakistan"),
    ("Chiang Mai", "Thailand"),
    ("Ho Chi Minh City", "Vietnam"),
    ("Mecca", "Saudi Arabia"),
    ("Basra", "Iraq"),
    ("Johannesburg", "South Africa"),
    ("Durban", "South Africa"),
    ("Casablanca", "Morocco"),
    ("Lagos", "Nigeria"),
    ("Mombasa", "Kenya"),
    ("Timbuktu", "Mali"),
    ("Toronto", "Canada"),
    ("Vancouver", "Canada"),
    ("Guadalajara", "Mexico"),
    ("Rio de Janeiro", "Brazil"),
    ("Sao Paulo", "Brazil"),
    ("Cusco", "Peru"),
    ("Medellin", "Colombia"),
    ("Guayaquil", "Ecuador"),
)


def capitals(rng: Random) -> list[Fact]:
    """Return one question a country: its capital, among capitals of the same continent."""
    return [
        Fact(
            question=f"What is the capital of {_named(country)}?",
            answer=capital,
            wrong=others([row[1] for row in COUNTRIES if row[1] and row[2] == continent], capital),
        )
        for country, capital, continent, _ in COUNTRIES
        if capital and continent and country not in _TELLING_CAPITAL
    ]


def continents(rng: Random) -> list[Fact]:
    """Return one question a country: the continent it lies on."""
    return [
        Fact(
            question=f"On which continent is {_named(country)}?",
            answer=continent,
            wrong=others(CONTINENTS, continent),
        )
        for country, _, continent, _ in COUNTRIES
        if continent and country not in _TELLING_CONTINENT
    ]


def currencies(rng: Random) -> list[Fact]:
    """Return one question a country: the name of its currency."""
    names = [row[3] for row in COUNTRIES if row[3]]
    return [
        Fact(
            question=f"What is the currency of {_named(country)}?",
            answer=currency,
            wrong=others(names, currency, *_forms(currency)),
        )
        for country, _, _, currency in COUNTRIES
        if currency
    ]


def cities(rng: Random) -> list[Fact]:
    """Return one question a city: its country, among countries of the same continent."""
    continent_of = {row[0]: row[2] for row in COUNTRIES}
    return [
        Fact(
            question=f"In which country is the city of {city}?",
            answer=country,
            wrong=others([name for name, at in continent_of.items() if at == continent_of[country]], country),
        )
        for city, country in CITIES
    ]


def _named(country: str) -> str:
    return f"the {country}" if country in {"Czech Republic", "Philippines", "United Kingdom"} else country


def _forms(currency: str) -> set[str]:
    return set().union(*(group for group in _ONE_WORD if currency in group))
