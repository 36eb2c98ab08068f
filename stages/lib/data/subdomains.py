"""The seven subdomains of the routing analysis, by a data set's own label or by keywords.

docs/METHOD.md, section 8. The rules are one table; a problem goes to the subdomain with the largest sum of weights of
the rules that match it (each rule counts once), ties to the earlier one in ``SUBDOMAINS``, no match to "other".
"""

import functools
import re
import unicodedata

SUBDOMAINS: tuple[str, ...] = (
    "algebra",
    "geometry",
    "number theory",
    "combinatorics & probability",
    "precalculus",
    "calculus & analysis",
    "other",
)
ALGEBRA, GEOMETRY, NUMBER_THEORY, COUNTING, PRECALCULUS, CALCULUS, OTHER = SUBDOMAINS

# Labels that data sets use (MATH, OlympiadBench, common spellings) -> subdomain; canonical names map to themselves.
LABELS = {
    **{name: name for name in SUBDOMAINS},
    "intermediate algebra": ALGEBRA,
    "prealgebra": ALGEBRA,
    "linear algebra": ALGEBRA,
    "numbertheory": NUMBER_THEORY,
    "counting & probability": COUNTING,
    "counting and probability": COUNTING,
    "combinatorics and probability": COUNTING,
    "combinatorics": COUNTING,
    "probability": COUNTING,
    "precalc": PRECALCULUS,
    "trigonometry": PRECALCULUS,
    "calculus": CALCULUS,
    "analysis": CALCULUS,
    "calculus and analysis": CALCULUS,
    "differential equations": CALCULUS,
}

# (subdomain, weight, whole words or phrases, other patterns), regular expressions on lower-case text.
# Weights were set on MATH's training problems and every second one of OlympiadBench (docs/RESULTS.md has the others).
# fmt: off
RULES: tuple[tuple[str, float, str, str], ...] = (
    # algebra
    (ALGEBRA, 3, r"polynomials? | quadratics? | cubic | coefficients? | discriminant", ""),
    (ALGEBRA, 0.5, r"solve for | system of | simplify | factor(ed|ing|ization)? (completely|the) | expand", ""),
    (ALGEBRA, 1, r"equations? | inequalit(y|ies) | expressions? | evaluate | compute", ""),
    (ALGEBRA, 2, r"functions? | domain | vertical asymptotes? | inverse of", r"\bf\(x\)|\bf\(\d|\bg\(x\)"),
    (ALGEBRA, 2, r"real (numbers?|values?|solutions?|roots?) | complex roots | roots of | "
                 r"values? of \$?[a-z]",
                 ""),
    (ALGEBRA, 4, r"geometric (sequence|series) | arithmetic (sequence|progression|series) | sequence", ""),
    (ALGEBRA, 1.5, r"slope | [xy]-intercepts? | parabola | hyperbola | ellipse | "
                 r"midpoint of the line segment",
                 ""),
    (ALGEBRA, 2, r"logarithms? | maximum value | minimum value | inversely",
                 r"\\log|\\lfloor|\\lceil|\bvariation"),
    (ALGEBRA, 1.5, r"percent(age)? | average | mean | median | ratio | costs? | dollars? | cents? | price", ""),
    (ALGEBRA, 5, r"per (hour|minute|day) | miles | hours? | minutes? | pounds? | gallons? | "
                 r"interest | speed",
                 ""),
    (ALGEBRA, 1.5, r"for (all|any|every) (\S+ ){0,2}real | system of equations | terms? of | "
                 r"for all \$?x | constants?",
                 r"\\mathbb\{r\}|\\mathbb\{q\}|\\tag"),
    (ALGEBRA, 1.5, r"square root | common fraction | mixed number | decimal | x | y", r"\\sqrt|[a-z]\^"),
    (ALGEBRA, 1, r"how (many|much|old|long|far|fast) | age",
                   r"\d\s*[-+*/=<>]|\\(frac|dfrac|cdot|div|times)\b"),
    # geometry
    (GEOMETRY, 3, r"triangles? | quadrilateral | trapezoid | parallelogram | rhombus | hypotenuse",
                  r"\\triangle"),
    (GEOMETRY, 2, r"circles? | radi(us|i) | diameter | tangent to | chord | inscribed | circumscribed",
                  r"\\overline"),
    (GEOMETRY, 3, r"angle bisector | perimeter | areas? | volume | surface area",
                  r"\bangles? \$?\\?[a-z]|\\angle"),
    (GEOMETRY, 3, r"rectang(le|ular)s? | polygons? | perpendicular | bisects? | diagonals?",
                  r"\bhexagon|\bpentagon|\boctagon|-gon\b|\bsquare \$?[a-z] ?[a-z] ?[a-z] ?[a-z]\b"),
    (GEOMETRY, 3, r"cylind(er|rical) | cones? | spheres? | prism | pyramid | tetrahedron | cubes?", ""),
    (GEOMETRY, 3, r"sides? | units | figure | diagram | length | parallel",
                  r"\[asy\]|\bsquare \$?abcd|\\cong"),
    # number theory
    (NUMBER_THEORY, 4, r"divisors? | divisible | remainder | modul[oa] | congruen(t|ce) to",
                       r"\\pmod|\\bmod"),
    (NUMBER_THEORY, 4, r"greatest common | least common | gcd | lcm", r"\\gcd"),
    (NUMBER_THEORY, 0.5, r"relatively prime | coprime", ""),
    (NUMBER_THEORY, 2, r"primes? | positive factors | multiples? of",
                       r"\bprime factor|\bfactors?\b of \$?\d"),
    (NUMBER_THEORY, 4, r"units digit | ones digit | tens digit",
                       r"\bbase[- ]?\$?(\d|b\b|ten|two|eight)|\bbases?\b \$?\d"),
    (NUMBER_THEORY, 3, r"digits? | perfect (square|cube)s? | decimal representation | repeating | "
                       r"binary",
                       r"_\{?\d+\}?\$"),
    (NUMBER_THEORY, 1.5, r"(positive|negative|smallest|largest|greatest|least) integers? | "
                         r"whole numbers? | consecutive | diophantine | sum of the digits | "
                         r"divid(ed|es) by",
                         ""),
    (NUMBER_THEORY, 2, r"(find|determine) all (positive |nonnegative |prime )?(integers?|pairs|triples|primes) | "
                       r"(pairs|triples|quadruples) of (\S+ ){0,2}integers | divides | integer solutions? | "
                       r"(square|cube)s? of (an|a positive) integer | rational | factorials?",
                       r"\\underline|\\mathbb\{z\}|[a-z0-9)] ?!"),
    # combinatorics & probability
    (COUNTING, 6, r"probabilit(y|ies) | random(ly)? | expected (value|number) | dice | die",
                  r"\bcoins?\b (is|are) (flip|toss)"),
    (COUNTING, 5, r"how many (\S+ ){0,2}(ways|arrangements|combinations|permutations|paths)", ""),
    (COUNTING, 4, r"ways | arranged? | permutations? | combinations | choose | committees? | subsets?",
                  r"\\binom|\\dbinom"),
    (COUNTING, 8, r"marbles? | cards? | deck | balls | flips? | flipped | tossed | rolled | rolls? | "
                  r"selected | seated",
                  ""),
    (COUNTING, 6, r"how many (different|distinct) | people | teams? | letters | word | paths? | grid",
                  r"\bpascal"),
    (COUNTING, 2, r"games? | players? | turns? | moves? | strategy | tournaments? | handshakes? | chess\w*", ""),
    (COUNTING, 6, r"cells | boards? | tiles? | tiled | tilings? | domino(es)? | colou?r(s|ed|ing|ings)? | "
                  r"painted | red | blue | towns? | switch(es)? | pebbles? | stones? | tokens?",
                  ""),
    (COUNTING, 2, r"friends? | each other | in some order | orderings? | tuples? | triples | "
                  r"subsequences? | disjoint",
                  ""),
    # precalculus
    (PRECALCULUS, 8, r"matri(x|ces) | vectors? | cross product | dot product | projection",
                     r"\\begin\{[pbv]?matrix\}|\\mathbf"),
    (PRECALCULUS, 5, r"polar | spherical",
                     r"\\(sin|cos|tan|cot|sec|csc|arcsin|arccos|arctan)\b|"
                     r"\\operatorname\{(arc)?(sin|cos|tan|cis)"),
    (PRECALCULUS, 5, r"cis | roots of unity | period of",
                     r"\\theta|\brotat(ed|ion) .{0,30}(origin|counter)|\bparameteri[zs]"),
    (PRECALCULUS, 4, r"(three|3) dimensions | cylindrical coordinates | rectangular coordinates",
                     r"\bline .{0,20}parameter|\bplane\b .{0,30}=|\be\^\{.{0,12}i"),
    # calculus & analysis
    (CALCULUS, 8, r"integrals? | derivatives? | differentiable | differential | limit of | "
                  r"converge(s|nce)?",
                  r"\\i{1,3}nt(?![a-z])|\\lim(?![a-z])"),
    (CALCULUS, 5, r"taylor | maclaurin | gradient | continuous function | supremum",
                  r"\\frac\{d[a-z]?\}\{d[a-z]\}|\\partial|\b[fghy]'(?![a-z])"),
)
# fmt: on


@functools.cache
def _compiled() -> tuple[tuple[str, float, re.Pattern[str]], ...]:
    rules = []
    for subdomain, weight, phrases, other in RULES:
        whole = "|".join(phrase.strip() for phrase in phrases.split(" | "))
        pattern = rf"\b(?:{whole})\b|{other}" if other else rf"\b(?:{whole})\b"
        rules.append((subdomain, weight, re.compile(pattern)))
    return tuple(rules)


def subdomain_of_label(label: str | None) -> str | None:
    """Return the subdomain of a data set's own label, None where the table lacks it."""
    return None if label is None else LABELS.get(" ".join(label.lower().replace("_", " ").split()))


def keyword_label(problem: str) -> str:
    """Return the subdomain of a problem by the rules alone."""
    text = unicodedata.normalize("NFKC", problem).lower()
    scores: dict[str, float] = dict.fromkeys(SUBDOMAINS, 0.0)
    for subdomain, weight, pattern in _compiled():
        if pattern.search(text):
            scores[subdomain] += weight
    best = max(SUBDOMAINS, key=scores.__getitem__)
    return best if scores[best] > 0 else OTHER


def classify(problem: str, label: str | None = None) -> str:
    """Return the subdomain of a problem: by its label if the table has it, else by the keyword rules."""
    return subdomain_of_label(label) or keyword_label(problem)
