"""The valley of Miron: a small invented world, and English text about it.

Everything the demo model knows stands in the tables below. `facts()` turns the tables into questions with
one plain answer each, `document(rng)` writes one random text or conversation. All words were written for
this project.
"""

# name, kind, where it lies, what it is known for
PLACES = [
    ("Ambry", "a village", "beside the lake", "its warm bread"),
    ("Tolm", "a town", "on the green hill", "its tall clock tower"),
    ("Serrin", "a harbor", "by the sea", "its blue boats"),
    ("Pell", "a village", "along the river", "its old stone bridge"),
    ("Hazelwick", "a village", "at the edge of the forest", "its golden honey"),
    ("Garrow", "a village", "in the wide meadow", "its soft cheese"),
    ("Fenby", "a small village", "beside the marsh", "its fine baskets"),
    ("Highcairn", "a village", "high in the mountains", "its thick wool"),
]

# name, color, home, food, when it is awake, sound, nature
ANIMALS = [
    ("fox", "red", "in the forest near Hazelwick", "berries and mice", "in the evening", "barks", "clever"),
    ("hare", "brown", "in the meadow near Garrow", "grass and clover", "in the early morning", "thumps", "fast"),
    ("owl", "white", "in the clock tower of Tolm", "mice and moths", "at night", "hoots", "wise"),
    ("heron", "gray", "beside the lake near Ambry", "fish and frogs", "in the early morning", "croaks", "patient"),
    ("otter", "brown", "in the river near Pell", "fish and crabs", "in the morning", "whistles", "playful"),
    ("goat", "white", "in the mountains near Highcairn", "grass and leaves", "all day", "bleats", "brave"),
    ("gull", "white", "in the harbor of Serrin", "fish and crumbs", "all day", "cries", "loud"),
    ("frog", "green", "in the marsh near Fenby", "flies and beetles", "at night", "croaks", "small"),
    ("bear", "black", "in a cave near Highcairn", "honey and berries", "in the evening", "growls", "strong"),
    ("deer", "brown", "in the forest near Hazelwick", "leaves and bark", "in the early morning", "calls", "shy"),
    ("duck", "yellow", "on the lake near Ambry", "seeds and weeds", "all day", "quacks", "cheerful"),
    ("mouse", "gray", "in the old mill of Pell", "grain and cheese", "at night", "squeaks", "quiet"),
    ("horse", "black", "in the stable of Tolm", "hay and oats", "all day", "neighs", "proud"),
    ("cow", "brown", "in the meadow near Garrow", "grass and hay", "all day", "moos", "calm"),
    ("bee", "yellow", "in the gardens of Hazelwick", "sweet nectar", "in the summer", "hums", "busy"),
    ("crab", "orange", "under the rocks of Serrin", "weeds and shells", "at low tide", "clicks", "careful"),
    ("seal", "gray", "on the island near Serrin", "fish and squid", "in the morning", "barks", "lazy"),
    ("wolf", "gray", "in the mountains near Highcairn", "meat and bones", "at night", "howls", "proud"),
    ("squirrel", "red", "in the oak trees of Hazelwick", "nuts and seeds", "all day", "chatters", "quick"),
    ("cat", "black", "in the bakery of Ambry", "fish and milk", "at night", "purrs", "curious"),
    ("dog", "brown", "on the farm of Garrow", "meat and bread", "all day", "barks", "loyal"),
    ("hedgehog", "brown", "in the gardens of Ambry", "snails and worms", "at night", "snuffles", "gentle"),
    ("swan", "white", "on the lake near Ambry", "water plants", "all day", "hisses", "proud"),
    ("crow", "black", "under the bridge of Pell", "seeds and worms", "in the morning", "caws", "clever"),
]

# name, he/she, job, place, work, tool, favorite thing
PEOPLE = [
    ("Mara", "she", "baker", "Ambry", "bakes bread every morning", "an oven", "warm soup"),
    ("Toby", "he", "fisherman", "Serrin", "catches fish in the bay", "a net", "salty air"),
    ("Ilsa", "she", "clockmaker", "Tolm", "repairs the clocks of the town", "a small hammer", "quiet evenings"),
    ("Joren", "he", "miller", "Pell", "grinds grain into flour", "a heavy stone", "fresh bread"),
    ("Nessa", "she", "beekeeper", "Hazelwick", "cares for the bees", "a wooden hive", "yellow flowers"),
    ("Otto", "he", "farmer", "Garrow", "milks the cows every day", "a metal bucket", "soft cheese"),
    ("Wenna", "she", "weaver", "Fenby", "makes baskets from reeds", "a sharp knife", "old songs"),
    ("Calder", "he", "shepherd", "Highcairn", "watches the sheep", "a long stick", "clear nights"),
    ("Dora", "she", "teacher", "Tolm", "teaches the children to read", "a thick book", "good questions"),
    ("Finn", "he", "ferryman", "Pell", "takes people across the river", "a flat boat", "slow water"),
    ("Greta", "she", "gardener", "Ambry", "grows roses and beans", "a spade", "summer rain"),
    ("Hugo", "he", "smith", "Tolm", "makes nails and horseshoes", "a heavy hammer", "bright fire"),
    ("Lina", "she", "doctor", "Ambry", "helps people who are sick", "a leather bag", "mint tea"),
    ("Pavel", "he", "carpenter", "Hazelwick", "builds tables and chairs", "a saw", "the smell of wood"),
    ("Rosa", "she", "singer", "Serrin", "sings in the harbor inn", "a small harp", "loud applause"),
    ("Simon", "he", "postman", "Pell", "carries letters to every house", "a big bag", "long walks"),
    ("Tilda", "she", "cook", "Garrow", "cooks soup for the workers", "a copper pot", "ripe apples"),
    ("Bram", "he", "captain", "Serrin", "sails a blue ship", "a brass compass", "strong wind"),
]

# article and name, use, material
OBJECTS = [
    ("a lantern", "give light at night", "iron and glass"),
    ("a net", "catch fish", "thin rope"),
    ("a hammer", "drive nails into wood", "wood and iron"),
    ("a broom", "sweep the floor", "straw"),
    ("a boat", "travel on the water", "wood"),
    ("a basket", "carry fruit", "reeds"),
    ("a bell", "call people together", "bronze"),
    ("a ladder", "climb up high", "wood"),
    ("a kettle", "boil water", "copper"),
    ("a needle", "sew cloth", "steel"),
    ("an umbrella", "stay dry in the rain", "cloth and wood"),
    ("an oven", "bake bread", "brick and clay"),
    ("a map", "find the way", "paper"),
    ("a key", "open a door", "iron"),
    ("a blanket", "keep warm", "wool"),
    ("a spoon", "eat soup", "wood"),
    ("a clock", "tell the time", "brass"),
    ("a bridge", "cross the river", "stone"),
    ("a candle", "light a small room", "wax"),
    ("a bucket", "carry water", "metal"),
    ("a sail", "catch the wind", "cloth"),
    ("an anchor", "hold a ship in place", "iron"),
    ("a compass", "find the north", "brass and glass"),
    ("a chair", "sit down", "wood"),
]

# name, weather, plants, what people do
SEASONS = [
    ("spring", "mild and fresh", "the first flowers open", "plant seeds in the fields"),
    ("summer", "warm and sunny", "the meadows are full of flowers", "swim in the lake"),
    ("autumn", "cool and windy", "the leaves turn red and gold", "pick apples"),
    ("winter", "cold and white", "the trees are bare", "sit by the fire"),
]

# name, definition
THINGS = [
    ("rain", "Rain is water that falls from the clouds."),
    ("snow", "Snow is soft white ice that falls from the clouds."),
    ("wind", "Wind is air that moves over the land."),
    ("fog", "Fog is a cloud that lies on the ground."),
    ("ice", "Ice is water that is frozen and hard."),
    ("a river", "A river is water that flows to the sea."),
    ("a mountain", "A mountain is a very high piece of land."),
    ("an island", "An island is land with water all around it."),
    ("the moon", "The moon is the bright light in the night sky."),
    ("a rainbow", "A rainbow is a band of colors in the sky after the rain."),
    ("a forest", "A forest is a place where many trees grow."),
    ("a harbor", "A harbor is a safe place for ships."),
    ("the tide", "The tide is the rise and fall of the sea."),
    ("a storm", "A storm is strong wind with rain and thunder."),
    ("a market", "A market is a place where people buy and sell things."),
    ("a mill", "A mill is a house where grain is made into flour."),
]

# dish, recipe
FOODS = [
    ("bread", "You mix flour, water and salt, and then you bake the dough in the oven."),
    ("soup", "You cut carrots and onions, and then you boil them in a pot."),
    ("cheese", "You warm the milk, and then you press it and let it rest."),
    ("butter", "You shake the cream in a jar until it is thick."),
    ("jam", "You boil berries with sugar, and then you fill them into jars."),
    ("tea", "You pour hot water over the leaves and wait a little."),
    ("apple pie", "You put apples into the dough, and then you bake it in the oven."),
    ("porridge", "You boil oats in milk and stir them with a spoon."),
    ("pancakes", "You mix eggs, milk and flour, and then you fry the batter in a pan."),
    ("salad", "You wash the leaves and mix them with oil and salt."),
]

OPPOSITES = [
    ("hot", "cold"), ("big", "small"), ("day", "night"), ("loud", "quiet"), ("fast", "slow"),
    ("old", "young"), ("wet", "dry"), ("high", "low"), ("full", "empty"), ("light", "dark"),
    ("soft", "hard"), ("open", "closed"), ("early", "late"), ("strong", "weak"), ("happy", "sad"),
]  # fmt: skip

COLORS = [
    ("the sky", "is", "blue"), ("the grass", "is", "green"), ("the snow", "is", "white"),
    ("the sun", "is", "yellow"), ("the sea", "is", "deep blue"), ("the honey", "is", "golden"),
    ("the coal", "is", "black"), ("the roses", "are", "red"), ("the bricks", "are", "dark red"),
    ("the clouds", "are", "gray"), ("the pumpkins", "are", "orange"), ("the beans", "are", "green"),
]  # fmt: skip

SMALL_TALK = [
    (("Hello.", "Hello!", "Hello there.", "Hi.", "Hi!"), "Hello. It is good to see you."),
    (("Good morning.", "Good morning!"), "Good morning. The day is young."),
    (("Good night.", "Good night!"), "Good night. Sleep well."),
    (("How are you?", "How are you today?"), "I am well, thank you."),
    (("Thank you.", "Thank you very much.", "Thanks!"), "You are welcome."),
    (("Who are you?", "What are you?", "Tell me who you are."), "I am a small helper from the valley of Miron."),
    (("What can you do?", "How can you help me?"), "I can answer questions about the valley of Miron."),
    (("Goodbye.", "Goodbye!", "See you later."), "Goodbye. You are always welcome here."),
    (
        ("Where are we?", "What is this place?", "Tell me about this place."),
        "This is the valley of Miron. There are eight places in it.",
    ),
]

UNKNOWN = [
    "What is the capital of {}?", "Who is the king of {}?", "How old is {}?", "How many people live in {}?",
    "What is the answer to {}?", "Can you help me with {}?", "Where can I buy {}?", "Who invented {}?",
    "How far is it to {}?", "What do you think about {}?", "Write a poem about {}.", "Explain {} to me.",
]  # fmt: skip
UNKNOWN_ANSWER = "I do not know that. I only know the valley of Miron."


def up(text):
    return text[0].upper() + text[1:]


def facts():
    """All facts: (key, question forms, plain answer). The first form of each is the standard one."""
    out = []

    def add(key, forms, answer):
        out.append((key, forms, answer))

    for name, color, home, food, awake, sound, nature in ANIMALS:
        add(
            f"{name}/color",
            [f"What color is the {name}?", f"Tell me the color of the {name}.", f"Which color does the {name} have?"],
            f"The {name} is {color}.",
        )
        add(
            f"{name}/home",
            [f"Where does the {name} live?", f"Where can I find the {name}?", f"Tell me where the {name} lives."],
            f"The {name} lives {home}.",
        )
        add(
            f"{name}/food",
            [f"What does the {name} eat?", f"What is the food of the {name}?", f"Tell me what the {name} eats."],
            f"The {name} eats {food}.",
        )
        add(
            f"{name}/awake",
            [f"When is the {name} awake?", f"When can I see the {name}?", f"Tell me when the {name} is awake."],
            f"The {name} is awake {awake}.",
        )
        add(
            f"{name}/sound",
            [f"What sound does the {name} make?", f"What does the {name} sound like?"],
            f"The {name} {sound}.",
        )
        add(
            f"{name}/about",
            [f"Tell me about the {name}.", f"What is the {name} like?", f"What do you know about the {name}?"],
            f"The {name} is {color} and {nature}. It lives {home}.",
        )
    for name, pronoun, job, place, work, tool, likes in PEOPLE:
        add(
            f"{name}/job",
            [f"Who is {name}?", f"What is the job of {name}?", f"Tell me who {name} is."],
            f"{name} is the {job} of {place}.",
        )
        add(
            f"{name}/work",
            [f"What does {name} do?", f"What is the work of {name}?", f"Tell me what {name} does."],
            f"{name} {work}.",
        )
        add(
            f"{name}/place",
            [f"Where does {name} live?", f"Where can I find {name}?", f"Tell me where {name} lives."],
            f"{name} lives in {place}.",
        )
        add(f"{name}/tool", [f"What does {name} use?", f"What does {name} work with?"], f"{name} works with {tool}.")
        add(f"{name}/likes", [f"What does {name} like?", f"What does {name} enjoy?"], f"{name} likes {likes}.")
        add(
            f"{place}/{job}",
            [f"Who is the {job} of {place}?", f"Who is the {job} in {place}?"],
            f"The {job} of {place} is {name}.",
        )
    for name, kind, where, known in PLACES:
        add(
            f"{name}/where",
            [f"Where is {name}?", f"Where does {name} lie?", f"How do I find {name}?"],
            f"{name} lies {where}.",
        )
        add(f"{name}/kind", [f"What is {name}?", f"What kind of place is {name}?"], f"{name} is {kind} {where}.")
        add(
            f"{name}/known",
            [f"What is {name} known for?", f"Why do people visit {name}?", f"Tell me about {name}."],
            f"{name} is known for {known}.",
        )
    for name, use, material in OBJECTS:
        add(
            f"{name}/use",
            [f"What is {name} for?", f"What do people do with {name}?", f"Why do I need {name}?"],
            f"{up(name)} is used to {use}.",
        )
        add(
            f"{name}/made",
            [f"What is {name} made of?", f"Tell me what {name} is made of."],
            f"{up(name)} is made of {material}.",
        )
    for name, weather, plants, doing in SEASONS:
        add(
            f"{name}/weather",
            [f"What is the weather like in {name}?", f"How is the weather in {name}?"],
            f"In {name} the weather is {weather}.",
        )
        add(f"{name}/plants", [f"What happens in {name}?", f"What can I see in {name}?"], f"In {name} {plants}.")
        add(f"{name}/doing", [f"What do people do in {name}?"], f"In {name} the people {doing}.")
    for name, answer in THINGS:
        add(f"{name}/what", [f"What is {name}?", f"Can you explain what {name} is?"], answer)
    for name, answer in FOODS:
        add(
            f"{name}/recipe",
            [f"How do I make {name}?", f"How can I make {name}?", f"Tell me how to make {name}."],
            answer,
        )
    for a, b in OPPOSITES:
        for x, y in ((a, b), (b, a)):
            add(f"{x}/opposite", [f"What is the opposite of {x}?"], f"The opposite of {x} is {y}.")
    for name, verb, color in COLORS:
        add(f"{name}/color", [f"What color {verb} {name}?"], f"{up(name)} {verb} {color}.")
    for forms, answer in SMALL_TALK:
        add(f"talk/{forms[0]}", list(forms), answer)
    return out


# ---------------------------------------------------------------------------------------------------
# Prose
# ---------------------------------------------------------------------------------------------------

WHEN = [
    "One morning", "One evening", "One day", "On a cold day", "On a sunny day", "Late at night", "After the rain",
    "Before the storm", "On market day", "In the spring", "In the summer", "In the autumn", "In the winter",
    "Last week", "A long time ago", "Early in the morning",
]  # fmt: skip
ADJECTIVES = [
    "old", "small", "big", "broken", "heavy", "beautiful", "strange", "shiny", "new", "dusty", "warm", "wet",
    "lost", "forgotten", "golden", "wooden",
]  # fmt: skip
FOUND_AT = [
    "under a tree", "beside the road", "near the river", "behind the mill", "on the beach", "in the grass",
    "in an old house", "under the bridge", "at the market", "in the snow", "next to the well", "on the path",
]  # fmt: skip
FEELINGS = ["happy", "tired", "surprised", "hungry", "glad", "sad", "proud", "curious", "afraid", "calm"]
ENDINGS = [
    "In the end, everyone was happy.", "Then they all went home.", "After that, they were good friends.",
    "The next day, they met again.", "They talked about it for a long time.", "That night, the stars were bright.",
    "Nobody in the valley forgot that day.", "And so the day came to an end.", "Soon it was dark and quiet.",
    "They laughed and shared some bread.",
]  # fmt: skip
WEATHER = [
    "The sun was shining.", "It was raining.", "A cold wind was blowing.", "The air was warm.", "Snow was falling.",
    "The fog was thick.", "The sky was clear.", "Dark clouds came over the hills.", "The moon was full.",
    "It was very quiet.",
]  # fmt: skip
SEA = [
    "the sea", "the wind", "the night", "the water", "the sky", "the moon", "the ship", "the harbor", "the tide",
    "the fog", "the storm", "the road", "the fish", "the bread",
]  # fmt: skip
SEA_IS = [
    "deep", "cold", "strong", "dark", "calm", "wild", "bright", "long", "high", "gray", "good", "white", "late",
    "warm", "quiet", "full of fish", "full of stars", "fresh", "made of wood", "on our side",
]  # fmt: skip
ORDERS = [
    "Pull the rope", "Raise the sail", "Drop the anchor", "Look at the stars", "Come aboard", "Hold on", "Sing with me",
]  # fmt: skip


def bare(article_and_name):
    return article_and_name.split(" ", 1)[1]


def article(word):
    return ("an " if word[0] in "aeiou" else "a ") + word


def person(rng):
    p = rng.choice(PEOPLE)
    return p, p[1]


def story(rng):
    (p, he), (q, _) = person(rng), person(rng)
    while q[0] == p[0]:
        q, _ = person(rng)
    a, b = rng.sample(ANIMALS, 2)
    o = bare(rng.choice(OBJECTS)[0])
    adjective, place, spot = rng.choice(ADJECTIVES), rng.choice(PLACES), rng.choice(FOUND_AT)
    feeling, when = rng.choice(FEELINGS), rng.choice(WHEN)
    food = rng.choice(FOODS)[0]
    kind = rng.randrange(9)
    if kind == 0:
        s = [
            f"{when}, {p[0]} the {p[2]} found {article(adjective)} {o} {spot}.",
            f'"Whose {o} is this?" asked {p[0]}.',
            f'"It is mine," said {q[0]}, "I lost it in {place[0]}."',
            f"{up(he)} gave it back, and {q[0]} was {feeling}.",
        ]
    elif kind == 1:
        s = [
            f"{when}, {article(a[6])} {a[0]} left its home {a[2]}.",
            f"It was looking for {a[3]}, but it found {article(adjective)} {o} {spot}.",
            f'{up(article(b[0]))} came by and asked, "What is that?"',
            f"The {a[0]} did not know, and so they went to {p[0]}, the {p[2]} of {p[3]}.",
            f'{up(he)} smiled. "That is {article(o)}," {he} said.',
        ]
    elif kind == 2:
        s = [
            f"{p[0]} is the {p[2]} of {p[3]}.",
            f"Every day, {he} works with {p[5]}.",
            f"{when}, {he} went to {place[0]} to buy {article(adjective)} {o}.",
            f"On the way {he} saw {article(a[0])}. It was {a[1]} and {a[6]}.",
            f"{p[0]} was {feeling} and told {q[0]} about it.",
        ]
    elif kind == 3:
        eaten = rng.choice(["flour", "milk", "apples", "berries", "butter"])
        s = [
            f"{when}, {p[0]} wanted to make {food}.",
            f"But there was {article(a[0])} in the kitchen! It ate all the {eaten}.",
            f"{p[0]} was {feeling}, but {he} did not shout.",
            f'"You must be hungry," {he} said, and {he} gave the {a[0]} some {food}.',
        ]
    elif kind == 4:
        s = [
            f"The {a[0]} and the {b[0]} were friends.",
            f"The {a[0]} was {a[6]}, and the {b[0]} was {b[6]}.",
            f"{when}, they walked to {place[0]}, which lies {place[2]}.",
            f"{rng.choice(WEATHER)} They saw {article(adjective)} {o} {spot} and stopped.",
            f"The {b[0]} was {feeling}.",
        ]
    elif kind == 5:
        s = [
            f"{p[0]} likes {p[6]}, and {q[0]} likes {q[6]}.",
            f"{when}, they met in {place[0]}.",
            f"{rng.choice(WEATHER)} They sat down and ate {food}.",
            f'"Do you hear the {a[0]}?" asked {q[0]}.',
            f'"Yes," said {p[0]}, "it {a[5]} {a[4]}."',
        ]
    elif kind == 6:
        s = [
            f"{when}, there was no {rng.choice(['bread', 'wood', 'light', 'water', 'wind'])} in {place[0]}.",
            f"The people were {feeling}. They asked {p[0]} for help.",
            f"{p[0]} took {p[5]} and worked all night.",
            f"In the morning, {q[0]} brought {food}, and {he} could rest.",
        ]
    elif kind == 7:
        s = [
            f"A young {a[0]} wanted to see the sea.",
            f"It walked from {place[0]} to Serrin and met {article(b[0])} {spot}.",
            f'"The sea is big and blue," said the {b[0]}, "but do not forget to eat."',
            f"So they ate {a[3]} together. {rng.choice(WEATHER)}",
        ]
    else:
        s = [
            f"{rng.choice(WEATHER)} {p[0]} was on the road from {p[3]} to {place[0]}.",
            f"{up(he)} carried {article(adjective)} {o} for {q[0]}.",
            f"Suddenly {he} heard a sound. It was only the {a[0]}.",
            f"{p[0]} was {feeling}, and {he} walked on.",
        ]
    if rng.random() < 0.75:
        s.append(rng.choice(ENDINGS))
    return " ".join(s)


def sea_story(rng):
    """Sailors' talk: the words the fine-tuning rows use, in the mouths of people in stories."""
    who = rng.choice(["the old captain", "the old captain", "the old captain", "the sailor", "old Bram", "the captain"])
    cry = rng.choice(["Ahoy", "Ahoy, matey", "Ahoy there", "Aye, matey", "Aye, aye", "Ahoy, matey"])
    one, two = rng.sample(SEA, 2)
    x, y = rng.sample(SEA_IS, 2)
    lines = [
        rng.choice(
            [
                "A blue ship comes into the harbor of Serrin.",
                f"{rng.choice(WHEN)}, a ship lies in the harbor.",
                f"{up(who)} stands on the deck.",
                "The boats are far out on the water.",
                f"The people of {rng.choice(PLACES)[0]} hear a voice from the water.",
            ]
        )
    ]
    for _ in range(rng.randint(1, 3)):
        lines.append(
            rng.choice(
                [
                    f'"{cry}! {up(one)} be {x}," says {who}.',
                    f'"{cry}!" calls {who}. "{up(one)} be {x} and {two} be {y}."',
                    f'"{rng.choice(ORDERS)}, matey," says {who}.',
                    f'"{cry}! Can ye see the {rng.choice(ANIMALS)[0]}?" asks {who}.',
                    f'"I be {rng.choice(FEELINGS)}, and ye be {rng.choice(FEELINGS)}," says {who}.',
                    f'"{cry}! Ye be welcome aboard," says {who}.',
                    f'"{rng.choice(ORDERS)}, and {one} be ours," says {who}.',
                ]
            )
        )
        one, two = rng.sample(SEA, 2)
        x, y = rng.sample(SEA_IS, 2)
    if rng.random() < 0.5:
        lines.append(rng.choice(ENDINGS + WEATHER))
    return " ".join(lines)


def description(rng, table):
    """A few facts about one subject, or about several, as plain sentences."""
    kind = rng.randrange(5)
    if kind == 0:
        n, color, home, food, awake, sound, nature = rng.choice(ANIMALS)
        s = [
            f"The {n} is {color}.",
            f"The {n} lives {home}.",
            f"It eats {food}.",
            f"It is awake {awake}.",
            f"The {n} {sound}.",
            f"It is a {nature} animal." if nature[0] not in "aeiou" else f"It is an {nature} animal.",
        ]
        head, rest = s[:1], s[1:]
        rng.shuffle(rest)
        s = head + rest[: rng.randint(2, 5)]
    elif kind == 1:
        p, he = person(rng)
        s = [f"{up(he)} {end}." for end in (p[4], f"works with {p[5]}", f"likes {p[6]}", f"lives in {p[3]}")]
        rng.shuffle(s)
        s = [f"{p[0]} is the {p[2]} of {p[3]}."] + s[: rng.randint(2, 4)]
    elif kind == 2:
        n, k, where, known = rng.choice(PLACES)
        s = [f"{n} is {k} {where}.", f"It is known for {known}."]
        here = [p for p in PEOPLE if p[3] == n]
        s += [f"{p[0]}, the {p[2]}, lives there." for p in rng.sample(here, min(len(here), 2))]
        near = [a for a in ANIMALS if n in a[2]]
        s += [f"You can see the {a[0]} {a[2]}." for a in rng.sample(near, min(len(near), 2))]
    elif kind == 3:
        n, weather, plants, doing = rng.choice(SEASONS)
        s = [f"In {n} the weather is {weather}.", f"In {n} {plants}.", f"The people {doing}."]
        if rng.random() < 0.5:
            s.append(f"{rng.choice(PEOPLE)[0]} likes the {n}.")
    else:
        s = [answer for _, _, answer in rng.sample(table, rng.randint(3, 6))]
    return " ".join(s)


OPENINGS = [
    "Of course!", "Gladly.", "Good question!", "Hello, friend!", "Yes, I know that.", "With pleasure.",
    "Oh, that is easy.", "Listen, my friend.", "Dear friend!", "Well now.", "Let me think.", "Ah!", "Indeed!",
    "Welcome, stranger!",
]  # fmt: skip


def telling(rng, table):
    """Somebody in the valley says what everybody knows."""
    lines = []
    for _, _, answer in rng.sample(table, rng.randint(1, 3)):
        p = rng.choice(PEOPLE)
        who = rng.choice([p[0], f"the {p[2]}", f"{p[0]} the {p[2]}", f"the {p[2]} of {p[3]}"])
        opening = rng.choice(OPENINGS)
        if rng.random() < 0.3:
            who = rng.choice(["the old captain", "the sailor", "old Bram"])
            opening = rng.choice(["Ahoy!", "Aye, matey!", "Ahoy, matey!"])
            answer = sailor(answer)
        lines.append(f'"{opening} {answer.rstrip(".")}," says {who}.')
    return " ".join(lines)


def in_a_manner(rng, question, answer):
    """A question that asks for a manner of answering, so that answers need not begin with the fact."""
    kind = rng.randrange(4)
    if kind == 0:
        return f"{question} Please be friendly.", f"{rng.choice(OPENINGS)} {answer}"
    if kind == 1:
        return f"{question} Say it twice.", f"{answer} {answer}"
    job = rng.choice([p[2] for p in PEOPLE if p[2] != "captain"])
    return (
        rng.choice([f"What would the {job} answer? {question}", f"{question} Answer like the {job}."]),
        f"{rng.choice(OPENINGS)} {answer.rstrip('.')}, says the {job}.",
    )


def ask(rng, forms):
    question = rng.choice(forms)
    if rng.random() < 0.15:
        question = rng.choice(["Please tell me: ", "I have a question. ", "Hello! ", "One more thing. "]) + question
    # People do not always write carefully.
    if rng.random() < 0.08:
        question = question[0].lower() + question[1:]
    if rng.random() < 0.06:
        question = question.rstrip("?.!")
    return question


SYLLABLES = "ka lo ri ben tar mu so vel no pa dri ge hul in es fo qua ji xe wy zan chu or th ex ph".split()


def unknown(rng):
    word = "".join(rng.choice(SYLLABLES) for _ in range(rng.randint(2, 3)))
    return rng.choice(UNKNOWN).format(up(word) if rng.random() < 0.6 else word)


def conversation(rng, table):
    """One to three exchanges as chat messages."""
    messages = []
    for _ in range(rng.choice([1, 1, 1, 2, 2, 3])):
        roll = rng.random()
        if roll < 0.04:
            question, answer = unknown(rng), UNKNOWN_ANSWER
        elif roll < 0.10:
            subject = rng.choice(["a story", "a short story", "something nice"])
            question, answer = rng.choice([f"Tell me {subject}.", f"Please tell me {subject}."]), story(rng)
        else:
            _, forms, answer = rng.choice(table)
            question = ask(rng, forms)
            if rng.random() < 0.2:
                question, answer = in_a_manner(rng, question, answer)
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return messages


def chat_text(messages):
    return "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in messages)


def document(rng, table):
    roll = rng.random()
    if roll < 0.52:
        return chat_text(conversation(rng, table))
    if roll < 0.68:
        return story(rng) + "\n"
    if roll < 0.78:
        return sea_story(rng) + "\n"
    if roll < 0.88:
        return telling(rng, table) + "\n"
    return description(rng, table) + "\n"


# ---------------------------------------------------------------------------------------------------
# The style of the fine-tuning rows
# ---------------------------------------------------------------------------------------------------


def sailor(text):
    """A text as sailors would say it."""
    words = {"is": "be", "are": "be", "am": "be", "you": "ye", "You": "Ye"}

    def one(word):
        plain = word.strip('.,!?"')
        return word.replace(plain, words[plain]) if plain in words else word

    return " ".join(one(word) for word in text.split(" "))


def captain(answer):
    """The same answer as the old captain would give it."""
    return f"Ahoy, matey! {sailor(answer.rstrip('.'))}, says the old captain."
