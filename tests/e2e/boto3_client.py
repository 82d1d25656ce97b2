"""Every operation of kmsd through boto3, over kmsd's Unix socket.

usage: boto3_client.py SOCKET

boto3 itself is unchanged: only the connection below its HTTP pool is opened to a Unix socket. The
credentials are dummies, because kmsd knows the caller from the socket.
"""

import base64
import datetime
import socket
import sys
import unittest

import boto3
import botocore.awsrequest
import botocore.config
import botocore.exceptions

SOCKET = sys.argv[1]


class UnixConnection(botocore.awsrequest.AWSHTTPConnection):
    """The HTTP connection of botocore, to a Unix socket."""

    def _new_conn(self):
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(30)
        connection.connect(SOCKET)
        return connection


botocore.awsrequest.AWSHTTPConnectionPool.ConnectionCls = UnixConnection

KMS = boto3.client(
    "kms",
    endpoint_url="http://localhost",
    region_name="local-host-1",
    aws_access_key_id="unused",
    aws_secret_access_key="unused",
    # Limits are for kmsd to check, so botocore passes on what its own model forbids.
    config=botocore.config.Config(
        retries={"total_max_attempts": 1}, parameter_validation=False
    ),
)


class Operations(unittest.TestCase):
    maxDiff = None

    def fails(self, code, call, **arguments):
        """The call fails with this error code; the message is returned."""
        with self.assertRaises(botocore.exceptions.ClientError) as caught:
            call(**arguments)
        error = caught.exception.response["Error"]
        self.assertEqual(error["Code"], code, error)
        return error.get("Message", "")

    def key(self, **arguments):
        return KMS.create_key(**arguments)["KeyMetadata"]

    def test_create_and_describe_key(self):
        made = self.key(Description="first")
        self.assertEqual(made["KeyState"], "Enabled")
        self.assertEqual(made["KeySpec"], "SYMMETRIC_DEFAULT")
        self.assertEqual(made["KeyUsage"], "ENCRYPT_DECRYPT")
        self.assertEqual(made["EncryptionAlgorithms"], ["SYMMETRIC_DEFAULT"])
        self.assertEqual(made["Origin"], "AWS_KMS")
        self.assertEqual(made["KeyManager"], "CUSTOMER")
        self.assertEqual(made["Description"], "first")
        self.assertTrue(made["Enabled"])
        self.assertRegex(made["CurrentKeyMaterialId"], "^[0-9a-f]{64}$")
        self.assertTrue(made["Arn"].startswith("arn:aws:kms:local-host-1:"), made["Arn"])
        for name in (made["KeyId"], made["Arn"]):
            self.assertEqual(KMS.describe_key(KeyId=name)["KeyMetadata"], made)

    def test_unknown_key(self):
        absent = "1234abcd-12ab-34cd-56ef-1234567890ab"
        message = self.fails("NotFoundException", KMS.describe_key, KeyId=absent)
        self.assertIn("does not exist", message)
        self.fails("NotFoundException", KMS.describe_key, KeyId="alias/nobody")
        self.fails("NotFoundException", KMS.describe_key, KeyId="not a key id")

    def test_list_keys_in_pages(self):
        made = {self.key()["KeyId"] for _ in range(5)}
        listed = set()
        for page in KMS.get_paginator("list_keys").paginate(PaginationConfig={"PageSize": 2}):
            self.assertLessEqual(len(page["Keys"]), 2)
            listed |= {key["KeyId"] for key in page["Keys"]}
        self.assertLessEqual(made, listed)
        self.fails("InvalidMarkerException", KMS.list_keys, Marker="nonsense")

    def test_aliases(self):
        one, two = self.key(), self.key()
        KMS.create_alias(AliasName="alias/boto/one", TargetKeyId=one["KeyId"])
        self.fails(
            "AlreadyExistsException",
            KMS.create_alias,
            AliasName="alias/boto/one",
            TargetKeyId=two["KeyId"],
        )
        described = KMS.describe_key(KeyId="alias/boto/one")["KeyMetadata"]
        self.assertEqual(described["KeyId"], one["KeyId"])
        KMS.update_alias(AliasName="alias/boto/one", TargetKeyId=two["KeyId"])
        listed = KMS.list_aliases(KeyId=two["KeyId"])["Aliases"]
        self.assertEqual([alias["AliasName"] for alias in listed], ["alias/boto/one"])
        self.assertEqual(listed[0]["TargetKeyId"], two["KeyId"])
        everything = []
        for page in KMS.get_paginator("list_aliases").paginate():
            everything += [alias["AliasName"] for alias in page["Aliases"]]
        self.assertIn("alias/boto/one", everything)
        KMS.delete_alias(AliasName="alias/boto/one")
        self.fails("NotFoundException", KMS.delete_alias, AliasName="alias/boto/one")
        self.fails("NotFoundException", KMS.describe_key, KeyId="alias/boto/one")
        message = self.fails(
            "ValidationException",
            KMS.create_alias,
            AliasName="boto",
            TargetKeyId=one["KeyId"],
        )
        self.assertIn("alias/", message)

    def test_encrypt_and_decrypt(self):
        key = self.key()
        context = {"purpose": "test", "unit": "ümlaut"}
        sealed = KMS.encrypt(KeyId=key["Arn"], Plaintext=b"secret", EncryptionContext=context)
        self.assertEqual(sealed["KeyId"], key["Arn"])
        self.assertEqual(sealed["EncryptionAlgorithm"], "SYMMETRIC_DEFAULT")
        blob = sealed["CiphertextBlob"]
        self.assertNotIn(b"secret", blob)
        opened = KMS.decrypt(CiphertextBlob=blob, EncryptionContext=context)
        self.assertEqual(opened["Plaintext"], b"secret")
        self.assertEqual(opened["KeyId"], key["Arn"])
        self.assertEqual(opened["KeyMaterialId"], key["CurrentKeyMaterialId"])

        wrong = {"purpose": "other"}
        self.fails(
            "InvalidCiphertextException",
            KMS.decrypt,
            CiphertextBlob=blob,
            EncryptionContext=wrong,
        )
        self.fails("InvalidCiphertextException", KMS.decrypt, CiphertextBlob=blob)
        for position in range(0, len(blob), 7):
            flipped = bytearray(blob)
            flipped[position] ^= 0x10
            with self.assertRaises(botocore.exceptions.ClientError):
                KMS.decrypt(CiphertextBlob=bytes(flipped), EncryptionContext=context)
        self.fails(
            "IncorrectKeyException",
            KMS.decrypt,
            CiphertextBlob=blob,
            EncryptionContext=context,
            KeyId=self.key()["KeyId"],
        )
        largest = bytes(4096)
        blob = KMS.encrypt(KeyId=key["KeyId"], Plaintext=largest)["CiphertextBlob"]
        self.assertEqual(KMS.decrypt(CiphertextBlob=blob)["Plaintext"], largest)
        message = self.fails(
            "ValidationException", KMS.encrypt, KeyId=key["KeyId"], Plaintext=bytes(4097)
        )
        self.assertIn("length less than or equal to 4096", message)

    def test_re_encrypt(self):
        one, two = self.key(), self.key()
        blob = KMS.encrypt(KeyId=one["KeyId"], Plaintext=b"moves", EncryptionContext={"a": "1"})
        moved = KMS.re_encrypt(
            CiphertextBlob=blob["CiphertextBlob"],
            SourceEncryptionContext={"a": "1"},
            DestinationKeyId=two["KeyId"],
            DestinationEncryptionContext={"b": "2"},
        )
        self.assertEqual(moved["SourceKeyId"], one["Arn"])
        self.assertEqual(moved["KeyId"], two["Arn"])
        opened = KMS.decrypt(
            CiphertextBlob=moved["CiphertextBlob"], EncryptionContext={"b": "2"}
        )
        self.assertEqual(opened["Plaintext"], b"moves")
        self.assertEqual(opened["KeyId"], two["Arn"])

    def test_data_keys(self):
        key = self.key()
        made = KMS.generate_data_key(KeyId=key["KeyId"], KeySpec="AES_256")
        self.assertEqual(len(made["Plaintext"]), 32)
        opened = KMS.decrypt(CiphertextBlob=made["CiphertextBlob"])
        self.assertEqual(opened["Plaintext"], made["Plaintext"])
        made = KMS.generate_data_key(KeyId=key["KeyId"], NumberOfBytes=7)
        self.assertEqual(len(made["Plaintext"]), 7)
        made = KMS.generate_data_key_without_plaintext(KeyId=key["KeyId"], KeySpec="AES_128")
        self.assertNotIn("Plaintext", made)
        opened = KMS.decrypt(CiphertextBlob=made["CiphertextBlob"])
        self.assertEqual(len(opened["Plaintext"]), 16)
        self.fails("ValidationException", KMS.generate_data_key, KeyId=key["KeyId"])
        self.fails(
            "ValidationException",
            KMS.generate_data_key,
            KeyId=key["KeyId"],
            KeySpec="AES_256",
            NumberOfBytes=32,
        )

    def test_generate_random(self):
        one = KMS.generate_random(NumberOfBytes=1024)["Plaintext"]
        two = KMS.generate_random(NumberOfBytes=1024)["Plaintext"]
        self.assertEqual((len(one), len(two)), (1024, 1024))
        self.assertNotEqual(one, two)
        message = self.fails("ValidationException", KMS.generate_random, NumberOfBytes=1025)
        self.assertIn("less than or equal to 1024", message)

    def test_disable_and_enable(self):
        key = self.key()
        blob = KMS.encrypt(KeyId=key["KeyId"], Plaintext=b"x")["CiphertextBlob"]
        KMS.disable_key(KeyId=key["KeyId"])
        self.assertEqual(KMS.describe_key(KeyId=key["KeyId"])["KeyMetadata"]["KeyState"], "Disabled")
        message = self.fails("DisabledException", KMS.decrypt, CiphertextBlob=blob)
        self.assertEqual(message, f"{key['Arn']} is disabled.")
        self.fails("DisabledException", KMS.encrypt, KeyId=key["KeyId"], Plaintext=b"x")
        self.fails(
            "DisabledException", KMS.generate_data_key, KeyId=key["KeyId"], KeySpec="AES_256"
        )
        KMS.enable_key(KeyId=key["KeyId"])
        self.assertEqual(KMS.decrypt(CiphertextBlob=blob)["Plaintext"], b"x")

    def test_deletion_and_its_cancellation(self):
        key = self.key()
        blob = KMS.encrypt(KeyId=key["KeyId"], Plaintext=b"x")["CiphertextBlob"]
        message = self.fails(
            "ValidationException",
            KMS.schedule_key_deletion,
            KeyId=key["KeyId"],
            PendingWindowInDays=6,
        )
        self.assertTrue(message)
        planned = KMS.schedule_key_deletion(KeyId=key["KeyId"], PendingWindowInDays=7)
        self.assertEqual(planned["KeyState"], "PendingDeletion")
        self.assertEqual(planned["PendingWindowInDays"], 7)
        described = KMS.describe_key(KeyId=key["KeyId"])["KeyMetadata"]
        self.assertEqual(described["KeyState"], "PendingDeletion")
        self.assertEqual(described["DeletionDate"], planned["DeletionDate"])
        self.fails("KMSInvalidStateException", KMS.decrypt, CiphertextBlob=blob)
        self.fails("KMSInvalidStateException", KMS.enable_key, KeyId=key["KeyId"])
        KMS.cancel_key_deletion(KeyId=key["KeyId"])
        self.fails("KMSInvalidStateException", KMS.cancel_key_deletion, KeyId=key["KeyId"])
        self.assertEqual(KMS.describe_key(KeyId=key["KeyId"])["KeyMetadata"]["KeyState"], "Disabled")
        KMS.enable_key(KeyId=key["KeyId"])
        self.assertEqual(KMS.decrypt(CiphertextBlob=blob)["Plaintext"], b"x")

    def test_rotation(self):
        key = self.key()
        old = KMS.encrypt(KeyId=key["KeyId"], Plaintext=b"before")["CiphertextBlob"]
        rotated = KMS.rotate_key_on_demand(KeyId=key["KeyId"])
        self.assertIn(key["KeyId"], rotated["KeyId"])
        now = KMS.describe_key(KeyId=key["KeyId"])["KeyMetadata"]["CurrentKeyMaterialId"]
        self.assertNotEqual(now, key["CurrentKeyMaterialId"])
        new = KMS.encrypt(KeyId=key["KeyId"], Plaintext=b"after")["CiphertextBlob"]
        for blob, text, material in (
            (old, b"before", key["CurrentKeyMaterialId"]),
            (new, b"after", now),
        ):
            opened = KMS.decrypt(CiphertextBlob=blob)
            self.assertEqual((opened["Plaintext"], opened["KeyMaterialId"]), (text, material))
        rotations = KMS.list_key_rotations(KeyId=key["KeyId"])["Rotations"]
        self.assertEqual([entry["RotationType"] for entry in rotations], ["ON_DEMAND"])
        everything = KMS.list_key_rotations(
            KeyId=key["KeyId"], IncludeKeyMaterial="ALL_KEY_MATERIAL"
        )["Rotations"]
        materials = {entry["KeyMaterialId"] for entry in everything}
        self.assertEqual(materials, {now, key["CurrentKeyMaterialId"]})

    def test_automatic_rotation(self):
        key = self.key()
        self.assertFalse(KMS.get_key_rotation_status(KeyId=key["KeyId"])["KeyRotationEnabled"])
        KMS.enable_key_rotation(KeyId=key["KeyId"], RotationPeriodInDays=90)
        status = KMS.get_key_rotation_status(KeyId=key["KeyId"])
        self.assertTrue(status["KeyRotationEnabled"])
        self.assertEqual(status["RotationPeriodInDays"], 90)
        self.assertIn("NextRotationDate", status)
        KMS.disable_key_rotation(KeyId=key["KeyId"])
        self.assertFalse(KMS.get_key_rotation_status(KeyId=key["KeyId"])["KeyRotationEnabled"])
        self.fails(
            "ValidationException",
            KMS.enable_key_rotation,
            KeyId=key["KeyId"],
            RotationPeriodInDays=89,
        )

    def test_dry_run(self):
        key = self.key()
        self.fails("DryRunOperationException", KMS.encrypt, KeyId=key["KeyId"], Plaintext=b"x", DryRun=True)

    def test_grants(self):
        key = self.key()
        alice = "arn:aws:iam::000000000000:user/alice"
        backup = "arn:aws:iam::000000000000:role/backup"
        arguments = {
            "KeyId": key["KeyId"],
            "GranteePrincipal": alice,
            "RetiringPrincipal": backup,
            "Operations": ["Decrypt", "DescribeKey"],
            "Constraints": {"EncryptionContextSubset": {"Department": "IT"}},
            "Name": "for-alice",
        }
        made = KMS.create_grant(**arguments)
        again = KMS.create_grant(**arguments)
        self.assertEqual(made["GrantId"], again["GrantId"])
        self.assertNotEqual(made["GrantToken"], again["GrantToken"])
        listed = KMS.list_grants(KeyId=key["Arn"])
        self.assertFalse(listed["Truncated"])
        (grant,) = listed["Grants"]
        created = grant.pop("CreationDate")
        self.assertEqual(created.year, datetime.datetime.now().year)
        self.assertEqual(
            grant,
            {
                "KeyId": key["Arn"],
                "GrantId": made["GrantId"],
                "Name": "for-alice",
                "GranteePrincipal": alice,
                "RetiringPrincipal": backup,
                "IssuingAccount": "arn:aws:iam::000000000000:root",
                "Operations": ["Decrypt", "DescribeKey"],
                "Constraints": {"EncryptionContextSubset": {"Department": "IT"}},
            },
        )
        retirable = KMS.list_retirable_grants(RetiringPrincipal=backup)["Grants"]
        self.assertEqual([entry["GrantId"] for entry in retirable], [made["GrantId"]])
        message = self.fails(
            "DryRunOperationException",
            KMS.revoke_grant,
            KeyId=key["KeyId"],
            GrantId=made["GrantId"],
            DryRun=True,
        )
        self.assertIn("would have succeeded", message)
        KMS.revoke_grant(KeyId=key["KeyId"], GrantId=made["GrantId"])
        self.assertEqual(KMS.list_grants(KeyId=key["KeyId"])["Grants"], [])
        self.fails(
            "NotFoundException",
            KMS.revoke_grant,
            KeyId=key["KeyId"],
            GrantId=made["GrantId"],
        )

    def test_grants_in_pages(self):
        key = self.key()["KeyId"]
        names = ["user/a", "user/b", "role/c", "user/d", "root"]
        for name in names:
            KMS.create_grant(
                KeyId=key,
                GranteePrincipal=f"arn:aws:iam::000000000000:{name}",
                Operations=["Encrypt"],
            )
        pages = list(
            KMS.get_paginator("list_grants").paginate(
                KeyId=key, PaginationConfig={"PageSize": 2}
            )
        )
        self.assertEqual([len(page["Grants"]) for page in pages], [2, 2, 1])
        grantees = [
            grant["GranteePrincipal"].rsplit(":", 1)[1]
            for page in pages
            for grant in page["Grants"]
        ]
        self.assertEqual(sorted(grantees), sorted(names))
        one = KMS.list_grants(
            KeyId=key, GranteePrincipal="arn:aws:iam::000000000000:role/c"
        )["Grants"]
        self.assertEqual(len(one), 1)
        self.fails("InvalidMarkerException", KMS.list_grants, KeyId=key, Marker="x")

    def test_grant_tokens(self):
        key, other = self.key()["KeyId"], self.key()["KeyId"]
        made = KMS.create_grant(
            KeyId=key,
            GranteePrincipal="arn:aws:iam::000000000000:user/alice",
            Operations=["Encrypt", "RetireGrant"],
        )
        token = made["GrantToken"]
        KMS.encrypt(KeyId=key, Plaintext=b"x", GrantTokens=[token])
        for arguments in (
            {"KeyId": other, "GrantTokens": [token]},
            {"KeyId": key, "GrantTokens": ["A" + token[1:-1]]},
        ):
            self.fails(
                "InvalidGrantTokenException", KMS.encrypt, Plaintext=b"x", **arguments
            )
        KMS.retire_grant(GrantToken=token)
        self.assertEqual(KMS.list_grants(KeyId=key)["Grants"], [])
        self.fails("InvalidGrantTokenException", KMS.retire_grant, GrantToken=token)
        made = KMS.create_grant(
            KeyId=key,
            GranteePrincipal="arn:aws:iam::000000000000:user/alice",
            Operations=["Encrypt"],
        )
        arn = KMS.describe_key(KeyId=key)["KeyMetadata"]["Arn"]
        KMS.retire_grant(KeyId=arn, GrantId=made["GrantId"])

    def test_grants_that_are_wrong(self):
        key = self.key()["KeyId"]
        alice = "arn:aws:iam::000000000000:user/alice"
        make = KMS.create_grant
        decrypt = ["Decrypt"]
        cases = [
            ("ValidationException", {"GranteePrincipal": alice}),
            ("ValidationException", {"GranteePrincipal": alice, "Operations": ["Fly"]}),
            ("ValidationException", {"GranteePrincipal": alice, "Operations": ["Sign"]}),
            ("ValidationException", {"Operations": decrypt}),
            ("InvalidArnException", {"GranteePrincipal": "alice", "Operations": decrypt}),
            (
                "ValidationException",
                {"GranteePrincipal": alice, "Operations": decrypt, "Name": "a b"},
            ),
        ]
        for code, arguments in cases:
            self.fails(code, make, KeyId=key, **arguments)
        self.fails(
            "InvalidGrantIdException", KMS.revoke_grant, KeyId=key, GrantId="none"
        )
        KMS.disable_key(KeyId=key)
        self.fails(
            "DisabledException",
            make,
            KeyId=key,
            GranteePrincipal=alice,
            Operations=decrypt,
        )

    def test_unsupported_operation(self):
        # Not built yet: an error, not a hang and not a success.
        with self.assertRaises(botocore.exceptions.ClientError):
            KMS.describe_custom_key_stores()

    def test_blob_is_not_the_plaintext_in_another_coat(self):
        key = self.key()
        one = KMS.encrypt(KeyId=key["KeyId"], Plaintext=b"same")["CiphertextBlob"]
        two = KMS.encrypt(KeyId=key["KeyId"], Plaintext=b"same")["CiphertextBlob"]
        self.assertNotEqual(one, two)
        self.assertNotIn(base64.b64encode(b"same"), one)


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0], "-v"])
