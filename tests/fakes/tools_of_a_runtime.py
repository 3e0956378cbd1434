"""A registry of seventy tools in the form of a runtime: names to descriptions and parameters, some without any.

Made from fourteen domains of five tools each. Descriptions come in the manners of real ones: an order, a third person,
a bare noun, with brackets, with a second sentence; parameters use most of what JSON Schema has.
"""

from __future__ import annotations

from typing import Any

Tools = dict[str, dict[str, Any]]

TEXT: dict[str, Any] = {"type": "string"}
FLAG: dict[str, Any] = {"type": "boolean"}


def whole(low: int = 1, high: int = 50) -> dict[str, Any]:
    return {"type": "integer", "minimum": low, "maximum": high}


def one_of(*values: str) -> dict[str, Any]:
    return {"type": "string", "enum": [*values]}


def shaped(shape: str) -> dict[str, Any]:
    return {"type": "string", "format": shape}


def listed(item: dict[str, Any], low: int = 1, high: int = 3) -> dict[str, Any]:
    return {"type": "array", "items": item, "minItems": low, "maxItems": high, "uniqueItems": True}


def takes(required: str = "", **properties: Any) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": False, "required": required.split(), "properties": properties}


_POINT = takes(
    "x y", x={"type": "number", "minimum": 0, "maximum": 10}, y={"type": "number", "minimum": 0, "maximum": 9}
)
_EITHER = {
    "type": "object",
    "properties": {"contact_id": {"type": "string", "pattern": "^c-[0-9]{3}$"}, "email": shaped("email")},
    "oneOf": [{"required": ["contact_id"]}, {"required": ["email"]}],
    "additionalProperties": False,
}
_REFERRING = {
    "type": "object",
    "$defs": {"span": takes("start_date", start_date=shaped("date"), days=whole(1, 14))},
    "properties": {"span": {"$ref": "#/$defs/span"}, "place": TEXT},
    "required": ["span"],
    "additionalProperties": False,
}

TOOLS: Tools = {
    # files
    "file_open": {
        "description": "Open a file and return its text.",
        "params": takes("path", path=TEXT, max_lines=whole(5, 400)),
    },
    "file_store": {
        "description": "Write text into a file, replacing what it holds.",
        "params": takes("path content", path=TEXT, content=TEXT, append=FLAG),
    },
    "folder_listing": {
        "description": "List what lies in a folder (one level).",
        "params": takes("folder", folder=TEXT, hidden=FLAG),
    },
    "file_rename": {
        "description": "Give a file another name.",
        "params": takes("path new_name", path=TEXT, new_name=TEXT),
    },
    "file_compare": {
        "description": "Compares two files line by line.",
        "params": takes("first_file second_file", first_file=TEXT, second_file=TEXT),
    },
    # shell
    "terminal_run": {
        "description": "Run a command in the sandbox and wait for its output.",
        "params": takes("command", command=TEXT, timeout_seconds=whole(1, 120)),
    },
    "terminal_background": {
        "description": "Start a command in the background.",
        "params": takes("command", command=TEXT),
    },
    "job_list": {"description": "List the background jobs.", "params": {}},
    "job_kill": {
        "description": "Stop one background job by its number.",
        "params": takes("job_number", job_number=whole(1, 99)),
    },
    "environment_dump": {"description": "Environment variables of the sandbox.", "params": {}},
    # web
    "web_lookup": {
        "description": "Search the web for pages on a topic.",
        "params": takes("query", query=TEXT, max_results=whole(1, 20), language=one_of("en", "de", "fr")),
    },
    "page_grab": {"description": "Download a web page as plain text.", "params": takes("url", url=shaped("uri"))},
    "headlines": {
        "description": "Today's headlines of a newspaper section.",
        "params": takes("section", section=one_of("politics", "sports", "science", "culture")),
    },
    "link_check": {
        "description": "Check whether a link still works.",
        "params": takes("url", url=shaped("uri"), follow_redirects=FLAG),
    },
    "feed_subscribe": {
        "description": "Follow a news feed.",
        "params": takes("feed_url", feed_url=shaped("uri"), folder=TEXT),
    },
    # knowledge
    "library_ask": {
        "description": "Ask the document library a question.",
        "params": takes("question", question=TEXT, top_k=whole(1, 10)),
    },
    "library_add": {
        "description": "Add a document to the library.",
        "params": takes("path", path=TEXT, tags=listed(TEXT)),
    },
    "library_drop": {
        "description": "Remove a document from the library.",
        "params": takes("document_id", document_id={"type": "string", "pattern": "^doc-[a-f0-9]{4}$"}),
    },
    "glossary_define": {
        "description": "Look up the meaning of a term in the glossary.",
        "params": takes("term", term=TEXT),
    },
    "citation_find": {
        "description": "Find the source of a quotation.",
        "params": takes("quotation", quotation={"type": "string", "minLength": 5, "maxLength": 60}),
    },
    # memory
    "memory_keep": {
        "description": "Remember a fact for later.",
        "params": takes("fact", fact=TEXT, importance={"type": "number", "minimum": 0, "maximum": 1}),
    },
    "memory_search": {"description": "Search the long-term memory.", "params": takes("query", query=TEXT)},
    "memory_forget": {"description": "Forget everything about a person.", "params": takes("person", person=TEXT)},
    "diary_write": {
        "description": "Append an entry to the diary.",
        "params": takes("entry", entry=TEXT, mood=one_of("calm", "glad", "low", "tense")),
    },
    "diary_read": {"description": "Read the diary of one day.", "params": takes("date", date=shaped("date"))},
    # sound
    "voice_say": {
        "description": "Say a sentence through the speakers.",
        "params": takes("sentence", sentence=TEXT, voice=one_of("alto", "tenor", "bass")),
    },
    "volume_set": {"description": "Set the volume of the speakers.", "params": takes("level", level=whole(0, 100))},
    "song_play": {"description": "Play a song.", "params": takes("title", title=TEXT, repeat=FLAG)},
    "noise_record": {
        "description": "Record the room for some seconds.",
        "params": takes("seconds", seconds=whole(2, 60)),
    },
    "speech_transcribe": {
        "description": "Turn a recording into text.",
        "params": takes("path", path=TEXT, speakers=whole(1, 6)),
    },
    # calendar
    "event_create": {
        "description": "Create an event in the calendar.",
        "params": takes(
            "title date",
            title=TEXT,
            date=shaped("date"),
            start_time={"type": "string", "pattern": "^([01][0-9]|2[0-3]):[0-5][0-9]$"},
            guests=listed(shaped("email")),
        ),
    },
    "event_move": {
        "description": "Move an event to another day.",
        "params": takes(
            "event_id new_date", event_id={"type": "string", "pattern": "^ev[0-9]{3}$"}, new_date=shaped("date")
        ),
    },
    "agenda_show": {"description": "Show the agenda of the coming days.", "params": takes("", days=whole(1, 14))},
    "reminder_set": {
        "description": "Set a reminder.",
        "params": takes("message when", message=TEXT, when=shaped("date-time")),
    },
    "absence_plan": {"description": "Plan an absence.", "params": _REFERRING},
    # mail
    "mail_send": {
        "description": "Send an e-mail to somebody.",
        "params": takes(
            "to subject body", to=shaped("email"), subject=TEXT, body=TEXT, priority=one_of("low", "normal", "high")
        ),
    },
    "mail_inbox": {
        "description": "Lists the newest letters in the inbox.",
        "params": takes("", limit=whole(1, 50), unread_only=FLAG),
    },
    "mail_archive": {
        "description": "Archive the letters of one sender.",
        "params": takes("sender", sender=shaped("email")),
    },
    "contact_find": {"description": "Find a contact in the address book.", "params": _EITHER},
    "contact_add": {
        "description": "Add a contact to the address book.",
        "params": takes(
            "name email",
            name=TEXT,
            email=shaped("email"),
            phone={"type": "string", "pattern": "^\\+49 [0-9]{3} [0-9]{6}$"},
        ),
    },
    # house
    "light_switch": {
        "description": "Switch the lights of a room.",
        "params": takes("room on", room=one_of("kitchen", "hall", "study", "bedroom"), on=FLAG),
    },
    "heating_adjust": {
        "description": "Adjust the heating of a room.",
        "params": takes(
            "room degrees",
            room=one_of("kitchen", "hall", "study", "bedroom"),
            degrees={"type": "number", "minimum": 12, "maximum": 26, "multipleOf": 0.5},
        ),
    },
    "door_lock": {"description": "Lock a door.", "params": takes("door", door=one_of("front", "back", "garage"))},
    "camera_photo": {"description": "Take a photo with the camera at the door.", "params": {}},
    "plant_water": {
        "description": "Water the plants on the balcony.",
        "params": takes("litres", litres={"type": "number", "exclusiveMinimum": 0, "maximum": 5}),
    },
    # weather and travel
    "forecast": {
        "description": "Weather forecast for a city.",
        "params": takes("city", city=TEXT, days=whole(1, 7), units=one_of("metric", "imperial")),
    },
    "train_times": {
        "description": "Next trains between two stations.",
        "params": takes("from_station to_station", from_station=TEXT, to_station=TEXT),
    },
    "hotel_book": {
        "description": "Book a hotel room.",
        "params": takes("city nights", city=TEXT, nights=whole(1, 14), breakfast=FLAG),
    },
    "currency_convert": {
        "description": "Convert an amount of money into another currency.",
        "params": takes(
            "amount target_currency",
            amount={"type": "number", "minimum": 1, "maximum": 5000},
            target_currency=one_of("EUR", "SEK", "CHF", "GBP"),
        ),
    },
    "route_plan": {
        "description": "Plan a route between two points on the map.",
        "params": takes("start goal", start=_POINT, goal=_POINT),
    },
    # study
    "training_begin": {
        "description": "Begin the training of an adapter.",
        "params": takes("adapter", adapter=TEXT, steps=whole(10, 500), notify=FLAG),
    },
    "training_state": {"description": "How far the training has come.", "params": {}},
    "training_abort": {"description": "Abort the running training.", "params": {}},
    "quiz_make": {
        "description": "Make a quiz on a subject.",
        "params": takes(
            "subject questions", subject=TEXT, questions=whole(3, 20), difficulty=one_of("easy", "fair", "hard")
        ),
    },
    "flashcard_add": {
        "description": "Add a flashcard to a deck.",
        "params": takes("front back", front=TEXT, back=TEXT, deck=TEXT),
    },
    # own state
    "self_health": {"description": "Report on the health of every service.", "params": {}},
    "log_tail": {
        "description": "Show the last lines of a service's log.",
        "params": takes("service", service=TEXT, lines=whole(5, 200)),
    },
    "service_restart": {"description": "Restart a service.", "params": takes("service", service=TEXT, force=FLAG)},
    "backup_run": {
        "description": "Make a backup of the whole state now.",
        "params": takes("", target=one_of("disk", "cloud"), encrypt=FLAG),
    },
    "tools_overview": {"description": "Overview of all tools with their parameters.", "params": {}},
    # stories
    "character_invent": {
        "description": "Invent a character for the story.",
        "params": takes("name trait", name=TEXT, trait=one_of("brave", "sly", "gentle", "vain"), age=whole(8, 90)),
    },
    "place_describe": {"description": "Describe a place of the invented world.", "params": takes("name", name=TEXT)},
    "plot_twist": {"description": "Suggest a turn for the plot.", "params": takes("", darkness=whole(1, 5))},
    "map_draw": {
        "description": "Draw a map of the invented world.",
        "params": takes("size", size={"anyOf": [one_of("small", "large"), whole(10, 90)]}),
    },
    "dice_roll": {
        "description": "Roll dice.",
        "params": takes("count sides", count=whole(1, 6), sides={"type": "integer", "enum": [4, 6, 8, 12, 20]}),
    },
    # texts
    "text_translate": {
        "description": "Translate a text into another language.",
        "params": takes("text language", text=TEXT, language=one_of("German", "French", "Spanish")),
    },
    "text_shorten": {
        "description": "Summarize a text in a few sentences.",
        "params": takes("path sentences", path=TEXT, sentences=whole(1, 8)),
    },
    "spelling_check": {
        "description": "Checks the spelling of a document.",
        "params": takes("path", path=TEXT, dialect=one_of("british", "american")),
    },
    "poem_compose": {
        "description": "Poem in a given form.",
        "params": takes("theme form", theme=TEXT, form=one_of("haiku", "sonnet", "limerick")),
    },
    "words_count": {"description": "Count the words of a text.", "params": takes("text", text=TEXT)},
}
