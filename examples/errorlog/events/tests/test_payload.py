import json
import uuid

from django.test import SimpleTestCase

from events.payload import BadEvent, fingerprint, normalise, parse_event


def parse(**payload):
    return parse_event(json.dumps(payload).encode())


class ParseEventTest(SimpleTestCase):
    def test_a_message_alone_is_an_event(self):
        event = parse(message="it broke")
        expected = {"message": "it broke", "type": "", "level": "error", "stacktrace": "", "extra": {}}
        self.assertEqual({key: event[key] for key in expected}, expected)
        self.assertIsInstance(event["id"], uuid.UUID)

    def test_every_field_is_kept(self):
        sent = {
            "id": str(uuid.uuid4()),
            "type": "ValueError",
            "message": "invalid price: 12,50",
            "level": "warning",
            "stacktrace": 'File "shop.py", line 3',
            "extra": {"order": 7, "tags": ["a", None, 1.5]},
        }
        event = parse(**sent)
        self.assertEqual({key: str(event[key]) if key == "id" else event[key] for key in sent}, sent)

    def test_what_the_database_cannot_hold_is_replaced(self):
        event = parse_event(b'{"message": "a\\u0000b\\ud800c", "extra": {"k\\u0000": ["\\udfff"]}}')
        self.assertEqual(event["message"], "a\ufffdb\ufffdc")
        self.assertEqual(event["extra"], {"k\ufffd": ["\ufffd"]})

    def test_bad_events_are_refused_with_a_reason(self):
        cases = [
            (b"", "not JSON"),
            (b"{", "not JSON"),
            (b"\xff\xfe\xfd", "not JSON"),
            (b"[" * 50_000, "nested too deeply"),
            (b'{"message": "m", "extra": {"n": NaN}}', "NaN"),
            (b'{"message": "m", "extra": {"n": 1e999}}', "too large"),
            (b'{"message": "m", "extra": {"n": ' + b"9" * 5000 + b"}}", "not JSON"),
            (b'"message"', "must be a JSON object"),
            (b"{}", "'message' is missing"),
            (b'{"message": "  "}', "'message' is missing"),
            (b'{"message": 7}', "'message' must be a string"),
            (b'{"message": "' + b"x" * 8193 + b'"}', "longer than 8192"),
            (b'{"message": "m", "type": ["E"]}', "'type' must be a string"),
            (b'{"message": "m", "level": "dire"}', "'level' must be one of debug, info"),
            (b'{"message": "m", "extra": [1]}', "'extra' must be an object"),
            (b'{"message": "m", "fingerprint": [1]}', "'fingerprint' must be"),
            (b'{"message": "m", "id": "7"}', "'id' must be a UUID"),
            (b'{"message": "m", "id": 7}', "'id' must be a string"),
        ]
        for body, reason in cases:
            with self.subTest(body=body[:60]), self.assertRaisesRegex(BadEvent, reason):
                parse_event(body)


class FingerprintTest(SimpleTestCase):
    def test_what_varies_is_left_out_of_the_message(self):
        cases = [
            ("order 1234 not found", "order <n> not found"),
            ("invalid price: 12,50", "invalid price: <n>"),
            ("10.0.0.7:5432 refused at 12:30:01.5", "<n> refused at <n>"),
            ("<object at 0x7f3a9c>", "<object at <n>>"),
            ("user 6f1c2a34-98ab-4c1d-8e2f-0123456789ab is gone", "user <n> is gone"),
            ("blob 9fceb02d0ae598e95dc970b74767f19372d61af8 is missing", "blob <n> is missing"),
            ("deadbeef facade stays, as words do", "deadbeef facade stays, as words do"),
            ("first line 1\nsecond line 2", "first line <n>"),
            ("", ""),
            ("\n", ""),
        ]
        for message, expected in cases:
            with self.subTest(message=message):
                self.assertEqual(normalise(message), expected)

    def test_the_same_error_with_other_numbers_is_the_same(self):
        self.assertEqual(fingerprint("KeyError", "no order 1"), fingerprint("KeyError", "no order 22"))

    def test_another_type_or_message_is_another_error(self):
        prints = {
            fingerprint("KeyError", "no order 1"),
            fingerprint("ValueError", "no order 1"),
            fingerprint("KeyError", "no customer 1"),
        }
        self.assertEqual(len(prints), 3)

    def test_an_explicit_fingerprint_decides_alone(self):
        self.assertEqual(fingerprint("A", "one", ["checkout"]), fingerprint("B", "two", ["checkout"]))
        self.assertNotEqual(fingerprint("A", "one", ["a", "b"]), fingerprint("A", "one", ["ab"]))
