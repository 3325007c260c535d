#!/usr/bin/env python3
"""Holds a running Zombi to its own OpenAPI description.

    tests/contract.py ZOMBI S3 [--seed N]

ZOMBI and S3 are the two binaries (`make contract` builds and passes them). The description must be valid OpenAPI 3.1. Then
schemathesis makes requests from it, right ones and wrong ones: no answer may be a 5xx, or anything that the description does
not know. Needs the packages of tests/requirements.txt in the Python that runs it.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile

from openapi_spec_validator import OpenAPIV31SpecValidator

from demo import S3, Zombi, check, say

CHECKS = "not_a_server_error,content_type_conformance,response_schema_conformance"
CASES = 3000


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("zombi")
    arguments.add_argument("s3")
    arguments.add_argument("--seed", type=int, default=1)
    arguments = arguments.parse_args()
    with tempfile.TemporaryDirectory(prefix="zombi-contract-") as directory:
        s3 = S3(arguments.s3, os.path.join(directory, "bucket"))
        zombi = Zombi(arguments.zombi, os.path.join(directory, "volume"), s3.endpoint)
        try:
            _, description = zombi.request("GET", "/openapi.json")
            OpenAPIV31SpecValidator(description).validate()
            say("the description is valid OpenAPI 3.1")
            fuzz(zombi, arguments.seed, directory)
        finally:
            zombi.kill()
            s3.stop()


def fuzz(zombi, seed, directory):
    report = os.path.join(directory, "report.json")
    command = [
        os.path.join(os.path.dirname(sys.executable), "schemathesis"), "run", f"http://127.0.0.1:{zombi.port}/openapi.json",
        "--phases", "examples,coverage,fuzzing,stateful", "--max-examples", "250", "--checks", CHECKS, "--seed", str(seed),
        "--suppress-health-check", "all", "--request-timeout", "600", "--report", "json", "--report-json-path", report,
    ]
    run = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", cwd=directory)
    check(run.returncode == 0, f"schemathesis finds nothing (seed {seed}):\n{run.stdout}")
    with open(report) as found:
        cases = json.load(found)["test_cases"]
    check(cases["generated"] >= CASES, f"at least {CASES:,} requests were made: {cases}")
    check(cases["with_failures"] == cases["errored"] == 0, f"none failed: {cases}")
    check(zombi.process.poll() is None, "the server still runs")
    say(f"{cases['generated']:,} requests, no 5xx, every answer as described; seed {seed}")


if __name__ == "__main__":
    main()
