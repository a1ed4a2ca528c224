"""Says of each schema whether it is one, and of each message that our tests judged whether another library judges alike."""

import json
import sys
from pathlib import Path

from jsonschema import Draft202012Validator

validators = {}
for file in sorted(Path("schemas").glob("*.schema.json")):
    schema = json.loads(file.read_text())
    Draft202012Validator.check_schema(schema)
    validators[file.name.removesuffix(".schema.json")] = Draft202012Validator(schema)

judged = 0
with open(sys.argv[1]) as verdicts:
    for line in verdicts:
        verdict = json.loads(line)
        judged += 1
        if validators[verdict["schema"]].is_valid(verdict["value"]) != verdict["valid"]:
            sys.exit(f"not valid={verdict['valid']} to jsonschema: {line[:1000]}")
if len(validators) < 5 or judged < 1000:
    sys.exit(f"only {len(validators)} schemas and {judged} messages were there to judge")
print(f"{len(validators)} schemas, {judged} messages")
