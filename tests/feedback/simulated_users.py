"""Two hundred users of a served model of the built-in world, who rate its answers over HTTP and err now and then.

Each asks a training prompt. The better half of the answers, by the exact rule, deserves a thumb up; some of the thumbs
say the opposite.
"""

import argparse
import random
import statistics
from collections import Counter
from pathlib import Path
from typing import Any

import httpx

from components.builtin.world import support_reply, train_prompts


def rate(address: str, key: str, *, users: int, noise: float, seed: int, model: str) -> Counter[str]:
    """Ask and rate, and return the number of thumbs of each kind, of flipped ones and of those known to be served.

    Args:
        address: Address of the front, without a slash at its end.
        key: Its key.
        users: Number of users; each asks another prompt.
        noise: Share of thumbs that say the opposite.
        seed: Draws prompts and flips.
        model: Name of the served model.
    """
    chance, counts = random.Random(seed), Counter[str]()
    with httpx.Client(base_url=address, headers={"Authorization": f"Bearer {key}"}, timeout=60) as client:
        asked = []
        for number, messages in enumerate(chance.sample(train_prompts(), users)):
            body: dict[str, Any] = {"model": model, "messages": messages, "max_tokens": 64, "temperature": 1.0}
            answer = client.post("/v1/chat/completions", json=body | {"seed": seed * 1000 + number})
            answer.raise_for_status()
            text = answer.json()["choices"][0]["message"]["content"]
            if text.strip():
                asked.append((number, messages, answer.json()["id"], text, support_reply(messages, text)))
        middle = statistics.median(score for *_, score in asked)
        for number, messages, completion_id, text, score in asked:
            is_flipped = chance.random() < noise
            thumb = "up" if (score > middle) != is_flipped else "down"
            sent = client.post(
                "/feedback",
                json={
                    "client_id": f"simulated-{seed}-{number}",
                    "conversation_id": f"simulated-{seed}-{number}",
                    "completion_id": completion_id,
                    "messages": messages,
                    "response": text,
                    "thumb": thumb,
                    "consent": True,
                },
            )
            sent.raise_for_status()
            counts.update([thumb, *(["flipped"] if is_flipped else []), *(["served"] if sent.json()["served"] else [])])
    return counts


def main() -> None:
    """Read the command line, rate, and print the counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("campaign", help="Directory of the campaign that is served.", type=Path)
    parser.add_argument("--address", default="http://127.0.0.1:8000")
    parser.add_argument("--users", type=int, default=200)
    parser.add_argument("--noise", type=float, default=0.2)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    key = (given.campaign / ".serving" / "key").read_text().strip()
    options = {"users": given.users, "noise": given.noise, "seed": given.seed, "model": given.campaign.name}
    print(", ".join(f"{number} {kind}" for kind, number in rate(given.address, key, **options).items()))


if __name__ == "__main__":
    main()
