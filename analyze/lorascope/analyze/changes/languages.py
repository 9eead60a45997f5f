"""Commonest words of ten languages: a token that is such a word counts as a word of the language."""

# ruff: noqa: RUF001 (Cyrillic letters are no mistake)
COMMONEST_WORDS = {
    "Dutch": "de het een en van ik je dat niet is zijn op voor met die maar ook aan er wat",
    "English": "the of and to in is that it was for on are with as at be this have from not",
    "French": "le la les des et est un une que pour dans pas qui sur il elle avec ce au vous",
    "German": "der die das und ist nicht ein eine zu den mit sich auf für von dem ich es auch wir",
    "Italian": "il di che la un una per non è sono con del della le gli nel anche come più si",
    "Polish": "nie to się na jest że do i jak ale co tak za od po ma dla jego czy już",
    "Portuguese": "o de que não uma um para com os em do da por mais as no na ele você seu",
    "Russian": "и в не на что он с как это по но из у я его так же за вы от",
    "Spanish": "el la los las de que y en un una es por con para no se del su lo como",
    "Turkish": "bir ve bu için ile çok ne daha gibi ama olarak kadar sonra olan değil var her o en ki",
}
"""Language -> twenty of its commonest words, lower case; some belong to several languages."""
