"""`sfumato serve` as a process, for tests that need all of it."""

import re
import signal
import subprocess
import sys

import httpx
import openai

KEY = "sk-good"


class Server:
    """`sfumato serve` as a process of its own."""

    def __init__(self, *words: str):
        command = [sys.executable, "-m", "sfumato", "serve", "--port", "0", "--threads", "1", *words]
        command += [] if "--model" in words or "--registry" in words else ["--model", "tiny"]
        command += [] if "--feedback-url" in words else ["--feedback-url", "none"]
        self.words = words
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        line = self.process.stdout.readline()
        found = re.search(r"http://[\d.]+:\d+", line)
        if not found:
            raise AssertionError(f"{line}{self.process.communicate(timeout=30)[1]}")
        self.url = found[0]
        self.client = openai.OpenAI(base_url=f"{self.url}/v1", api_key=KEY, max_retries=0, timeout=30)

    def stats(self) -> dict:
        return httpx.get(f"{self.url}/v1/stats", headers={"authorization": f"Bearer {KEY}"}).json()

    def end(self) -> tuple[int, str]:
        self.client.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        _, said = self.process.communicate(timeout=30)
        return self.process.returncode, said
