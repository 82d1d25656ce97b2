"""The AWS Encryption SDK with a master key of kmsd."""

import io
import sys
import unittest

import aws_encryption_sdk
import boto3
from aws_encryption_sdk import CommitmentPolicy
from botocore.exceptions import ClientError

KMS = boto3.client("kms")
REGION = KMS.meta.region_name
CLIENT = aws_encryption_sdk.EncryptionSDKClient(
    commitment_policy=CommitmentPolicy.REQUIRE_ENCRYPT_REQUIRE_DECRYPT
)


def provider(*arns):
    return aws_encryption_sdk.StrictAwsKmsMasterKeyProvider(key_ids=list(arns))


class EncryptionSdk(unittest.TestCase):
    def test_messages(self):
        one, two = (KMS.create_key()["KeyMetadata"]["Arn"] for _ in range(2))
        text = bytes(range(256)) * 400
        context = {"purpose": "encryption sdk"}
        sealed, _ = CLIENT.encrypt(
            source=text, key_provider=provider(one, two), encryption_context=context
        )
        # Either key opens it.
        for arn in (one, two):
            opened, header = CLIENT.decrypt(source=sealed, key_provider=provider(arn))
            self.assertEqual(opened, text)
            self.assertEqual(header.encryption_context["purpose"], "encryption sdk")
        with CLIENT.stream(
            mode="d", source=io.BytesIO(sealed), key_provider=provider(one)
        ) as stream:
            self.assertEqual(stream.read(), text)
        broken = bytearray(sealed)
        broken[-300] ^= 1
        with self.assertRaises(Exception):
            CLIENT.decrypt(source=bytes(broken), key_provider=provider(one))
        # The other key still opens it when one is disabled; nothing does when both are.
        KMS.disable_key(KeyId=one)
        opened, _ = CLIENT.decrypt(source=sealed, key_provider=provider(one, two))
        self.assertEqual(opened, text)
        KMS.schedule_key_deletion(KeyId=two, PendingWindowInDays=7)
        with self.assertRaises(aws_encryption_sdk.exceptions.AWSEncryptionSDKClientError):
            CLIENT.decrypt(source=sealed, key_provider=provider(one, two))
        KMS.cancel_key_deletion(KeyId=two)
        KMS.enable_key(KeyId=two)
        KMS.rotate_key_on_demand(KeyId=two)
        opened, _ = CLIENT.decrypt(source=sealed, key_provider=provider(two))
        self.assertEqual(opened, text)

    def test_discovery_and_cache(self):
        arn = KMS.create_key()["KeyMetadata"]["Arn"]
        cache = aws_encryption_sdk.LocalCryptoMaterialsCache(10)
        manager = aws_encryption_sdk.CachingCryptoMaterialsManager(
            master_key_provider=provider(arn), cache=cache, max_age=60.0, max_messages_encrypted=10
        )
        sealed = [CLIENT.encrypt(source=b"cached", materials_manager=manager)[0] for _ in range(3)]
        discovery = aws_encryption_sdk.DiscoveryAwsKmsMasterKeyProvider()
        for message in sealed:
            self.assertEqual(CLIENT.decrypt(source=message, key_provider=discovery)[0], b"cached")


if __name__ == "__main__":
    unittest.main()
