"""Feedback for trying a pilot: what the users of a coffee bar's assistant might have said. All of it is our own."""

import json
from itertools import product
from pathlib import Path

ASKED = ("{}", "Hello! {}", "Excuse me, {}", "Quick question: {}", "{} Thanks!")
FACTS = {
    "When do you open?": "We open at seven in the morning, and at nine on Sundays.",
    "When do you close?": "We close at eight in the evening.",
    "Where are you?": "You find us at 12 Mill Street, next to the bridge.",
    "Do you have oat milk?": "Yes, we have oat milk and soy milk, at no extra cost.",
    "Do you have wifi?": "Yes, the wifi is free. Ask for the code at the bar.",
    "Can I bring my dog?": "Yes, dogs are welcome.",
    "Do you sell beans?": "Yes, we sell beans from three farms, whole or ground.",
    "Can I pay by card?": "Yes, you can pay by card or in cash.",
}


def records() -> list[dict[str, str]]:
    """Corrections of answers that do not help; for some prompts a preference instead."""
    found = []
    for i, (ask, (question, fact)) in enumerate(product(ASKED, FACTS.items())):
        prompt, poor = ask.format(question), "I am sorry, I do not know."
        if i % 5 == 4:
            found.append({"prompt": prompt, "chosen": fact, "rejected": poor})
        else:
            found.append({"prompt": prompt, "response": poor, "correction": fact})
    return found


if __name__ == "__main__":
    path = Path(__file__).parent / "pilot-feedback.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records()), encoding="utf-8")
