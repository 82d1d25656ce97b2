"""The life of a key through boto3, with nothing but the environment that `kmsctl aws-config` prints."""

import hashlib
import unittest

import boto3
from botocore.exceptions import ClientError

KMS = boto3.client("kms")


class Life(unittest.TestCase):
    def key(self, **arguments):
        return KMS.create_key(**arguments)["KeyMetadata"]

    def test_symmetric_key(self):
        made = self.key(Description="boto3", Tags=[{"TagKey": "client", "TagValue": "boto3"}])
        self.assertEqual(made["KeyState"], "Enabled")
        KMS.create_alias(AliasName="alias/boto3", TargetKeyId=made["KeyId"])
        with self.assertRaises(KMS.exceptions.AlreadyExistsException):
            KMS.create_alias(AliasName="alias/boto3", TargetKeyId=made["KeyId"])
        context = {"purpose": "life", "city": "Zürich"}
        blob = KMS.encrypt(
            KeyId="alias/boto3", Plaintext=b"secret", EncryptionContext=context
        )["CiphertextBlob"]
        opened = KMS.decrypt(CiphertextBlob=blob, EncryptionContext=context)
        self.assertEqual((opened["Plaintext"], opened["KeyId"]), (b"secret", made["Arn"]))
        with self.assertRaises(KMS.exceptions.InvalidCiphertextException):
            KMS.decrypt(CiphertextBlob=blob)

        data_key = KMS.generate_data_key(KeyId=made["Arn"], KeySpec="AES_256")
        self.assertEqual(
            KMS.decrypt(CiphertextBlob=data_key["CiphertextBlob"])["Plaintext"],
            data_key["Plaintext"],
        )
        other = self.key()
        moved = KMS.re_encrypt(
            CiphertextBlob=blob, SourceEncryptionContext=context, DestinationKeyId=other["KeyId"]
        )
        self.assertEqual(
            KMS.decrypt(CiphertextBlob=moved["CiphertextBlob"])["Plaintext"], b"secret"
        )

        KMS.rotate_key_on_demand(KeyId=made["KeyId"])
        materials = KMS.list_key_rotations(
            KeyId=made["KeyId"], IncludeKeyMaterial="ALL_KEY_MATERIAL"
        )["Rotations"]
        self.assertEqual(len(materials), 2)
        again = KMS.decrypt(CiphertextBlob=blob, EncryptionContext=context)
        self.assertEqual(again["Plaintext"], b"secret")

        KMS.disable_key(KeyId=made["KeyId"])
        with self.assertRaises(KMS.exceptions.DisabledException) as caught:
            KMS.decrypt(CiphertextBlob=blob, EncryptionContext=context)
        self.assertEqual(
            caught.exception.response["Error"]["Message"], f"{made['Arn']} is disabled."
        )
        KMS.enable_key(KeyId=made["KeyId"])

        planned = KMS.schedule_key_deletion(KeyId=made["KeyId"], PendingWindowInDays=7)
        self.assertEqual(planned["KeyState"], "PendingDeletion")
        with self.assertRaises(KMS.exceptions.KMSInvalidStateException):
            KMS.encrypt(KeyId=made["KeyId"], Plaintext=b"x")
        KMS.cancel_key_deletion(KeyId=made["KeyId"])
        KMS.enable_key(KeyId=made["KeyId"])
        again = KMS.decrypt(CiphertextBlob=blob, EncryptionContext=context)
        self.assertEqual(again["Plaintext"], b"secret")
        KMS.delete_alias(AliasName="alias/boto3")
        with self.assertRaises(KMS.exceptions.NotFoundException):
            KMS.describe_key(KeyId="alias/boto3")

    def test_signing_key(self):
        made = self.key(KeySpec="ECC_NIST_P256", KeyUsage="SIGN_VERIFY")
        digest = hashlib.sha256(b"message").digest()
        arguments = {"KeyId": made["KeyId"], "SigningAlgorithm": "ECDSA_SHA_256"}
        signature = KMS.sign(Message=digest, MessageType="DIGEST", **arguments)["Signature"]
        verified = KMS.verify(Message=b"message", Signature=signature, **arguments)
        self.assertTrue(verified["SignatureValid"])
        with self.assertRaises(KMS.exceptions.KMSInvalidSignatureException):
            KMS.verify(Message=b"other", Signature=signature, **arguments)
        with self.assertRaises(KMS.exceptions.InvalidKeyUsageException):
            KMS.encrypt(KeyId=made["KeyId"], Plaintext=b"x")

    def test_wrong_secret(self):
        client = boto3.client("kms", aws_secret_access_key="wrong" * 8, **ACCESS_KEY)
        with self.assertRaises(ClientError) as caught:
            client.list_keys()
        code = caught.exception.response["Error"]["Code"]
        self.assertEqual(code, "InvalidSignatureException", caught.exception)


ACCESS_KEY = {
    "aws_access_key_id": boto3.Session().get_credentials().access_key,
}

if __name__ == "__main__":
    unittest.main()
