"""Tink with a key encryption key of kmsd: envelopes, and a key set encrypted under it."""

import io
import unittest

import boto3
import tink
from tink import aead
from tink.integration import awskms

KMS = boto3.client("kms")
aead.register()


class Tink(unittest.TestCase):
    def test_life(self):
        made = KMS.create_key()["KeyMetadata"]
        uri = "aws-kms://" + made["Arn"]
        remote = awskms.AwsKmsClient(uri, None).get_aead(uri)
        sealed = remote.encrypt(b"direct", b"associated")
        self.assertEqual(remote.decrypt(sealed, b"associated"), b"direct")
        with self.assertRaises(tink.TinkError):
            remote.decrypt(sealed, b"other")

        envelope = aead.KmsEnvelopeAead(aead.aead_key_templates.AES256_GCM, remote)
        text = bytes(100_000)
        wrapped = envelope.encrypt(text, b"file")
        self.assertEqual(envelope.decrypt(wrapped, b"file"), text)

        handle = tink.new_keyset_handle(aead.aead_key_templates.AES256_GCM)
        written = io.StringIO()
        handle.write(tink.JsonKeysetWriter(written), remote)
        message = handle.primitive(aead.Aead).encrypt(b"local", b"")
        read = tink.read_keyset_handle(tink.JsonKeysetReader(written.getvalue()), remote)
        self.assertEqual(read.primitive(aead.Aead).decrypt(message, b""), b"local")

        KMS.rotate_key_on_demand(KeyId=made["KeyId"])
        self.assertEqual(envelope.decrypt(wrapped, b"file"), text)
        KMS.disable_key(KeyId=made["KeyId"])
        with self.assertRaises(tink.TinkError):
            envelope.decrypt(wrapped, b"file")
        KMS.enable_key(KeyId=made["KeyId"])
        self.assertEqual(envelope.decrypt(wrapped, b"file"), text)
        KMS.schedule_key_deletion(KeyId=made["KeyId"], PendingWindowInDays=7)
        with self.assertRaises(tink.TinkError):
            remote.encrypt(b"x", b"")
        KMS.cancel_key_deletion(KeyId=made["KeyId"])


if __name__ == "__main__":
    unittest.main()
