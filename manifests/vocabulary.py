"""Words of the synthetic corpora, per language: frequent, short, and spelt with a to z alone.

The commonest letters and sounds of a language come early, so the first N words make a small task.
"""

from __future__ import annotations

LANGUAGES: dict[str, str] = {
    "en": "gmw/en-US",
    "de": "gmw/de",
    "es": "roa/es",
    "it": "roa/it",
    "id": "poz/id",
    "sw": "bnt/sw",
}
"""Language code to espeak-ng's language file."""

_WORDS: dict[str, str] = {
    "en": """
        red moon lemon sister paper window seven garden river stone
        milk table music winter summer yellow dinner number letter doctor
        zero one two three four five six eight nine ten
        cat dog fish bird horse apple bread sugar water butter
        open under never always again little happy quiet simple strong
        house street market button pocket basket kitchen morning evening sunday
        black white green silver orange violet finger shoulder mother father
        help jump walk listen follow remember visit answer carry bring
        cold warm fresh quick velvet box zebra yesterday
    """,
    "de": """
        rot mond hase sieben garten wasser stein milch tisch musik
        winter sommer gelb abend nummer brief doktor fenster papier schule
        null eins zwei drei vier sechs acht neun zehn elf
        katze hund fisch vogel pferd apfel brot zucker butter salz
        offen unter niemals immer wieder klein still einfach stark frisch
        haus stadt markt knopf tasche korb morgen sonntag montag freitag
        schwarz blau silber finger schulter mutter vater bruder kind freund
        helfen springen laufen folgen suchen bringen fragen tragen lachen kalt
        warm schnell jahr wolke ja quelle berg
    """,
    "es": """
        rojo luna mesa siete casa agua piedra leche tarde gato
        invierno verano amarillo noche carta doctor ventana papel escuela puerta
        cero uno dos tres cuatro cinco seis ocho nueve diez
        perro pez caballo manzana pan queso sal vino fuego tierra
        abierto nunca siempre otra vez poco feliz simple fuerte fresco
        calle mercado bolsa cesta cocina domingo lunes viernes semana hora
        negro blanco verde plata dedo hombro madre padre hermano amigo
        ayudar saltar caminar seguir buscar llevar preguntar cantar leer llamar
        nube jardin kilo zapato voz quince
    """,
    "it": """
        rosso luna mela sette casa acqua pietra latte sera gatto
        inverno estate giallo notte lettera dottore finestra carta scuola porta
        zero uno due tre quattro cinque sei otto nove dieci
        cane pesce cavallo pane sale vino fuoco terra burro zucchero
        aperto mai sempre ancora poco felice semplice forte fresco bello
        strada mercato borsa cesto cucina domenica settimana ora giorno mattina
        nero bianco verde argento dito spalla madre padre fratello amico
        aiutare saltare seguire cercare portare chiedere cantare leggere chiamare ridere
        nuvola giardino sogno foglia valle
    """,
    "id": """
        merah bulan meja tujuh rumah air batu susu malam kucing
        hujan musim kuning pagi surat dokter jendela kertas sekolah pintu
        nol satu dua tiga empat lima enam delapan sembilan sepuluh
        anjing ikan burung kuda apel roti gula garam api tanah
        buka bawah selalu lagi kecil senang tenang mudah kuat segar
        jalan pasar kantong dapur minggu senin jumat hari jam tahun
        hitam putih hijau perak jari bahu ibu ayah kakak teman
        bantu lompat ikut cari bawa tanya nyanyi baca panggil tertawa
        awan kebun mimpi daun gunung zaman
    """,
    "sw": """
        nyekundu mwezi meza saba nyumba maji jiwe maziwa jioni paka
        mvua njano usiku barua daktari dirisha karatasi shule mlango sukari
        sifuri moja mbili tatu nne tano sita nane tisa kumi
        mbwa samaki ndege farasi tunda mkate chumvi moto ardhi siagi
        wazi chini daima tena kidogo furaha kimya rahisi nguvu safi
        barabara soko mfuko kikapu jiko jumapili wiki saa siku asubuhi
        nyeusi nyeupe kijani fedha kidole bega mama baba kaka rafiki
        saidia ruka fuata tafuta leta uliza imba soma ita cheka
        wingu bustani ndoto jani mlima zawadi
    """,
}


def words(language: str) -> list[str]:
    """The words of `language` (a key of `LANGUAGES`), without repetition, in order of use."""
    return list(dict.fromkeys(_WORDS[language].split()))
