"""Every reply of every operation, compared with botocore's model of the service.

botocore parses replies leniently: what its model does not know is dropped, what lacks is not noticed. So the bytes of each
reply are looked at here: no unknown members, the required ones present, types, enumerations, patterns and lengths as the
model has them; errors with a code that the operation declares (or one that every operation may answer), the HTTP status of
the model, and no other members than AWS sends.

The life of keys of every kind makes the replies. At the end, each operation of the model has answered with success and
with an error, except those of custom key stores, which kmsd refuses.
"""

import base64
import collections
import datetime
import json
import os
import re
import unittest

import boto3
import botocore.config
import botocore.exceptions
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding

KMS = boto3.client(
    "kms",
    # Limits are for kmsd to check, so botocore passes on what its own model forbids.
    config=botocore.config.Config(
        retries={"total_max_attempts": 1}, parameter_validation=False, read_timeout=120
    ),
)
MODEL = KMS.meta.service_model
REGION = KMS.meta.region_name
# Another Region that the same kmsd serves.
SECOND_REGION = os.environ["KMS_SECOND_REGION"]

CUSTOM_KEY_STORES = {
    "ConnectCustomKeyStore",
    "CreateCustomKeyStore",
    "DeleteCustomKeyStore",
    "DescribeCustomKeyStores",
    "DisconnectCustomKeyStore",
    "UpdateCustomKeyStore",
}
# What the service answers without declaring it.
UNDECLARED = {
    "AccessDeniedException",
    "InvalidSignatureException",
    "ThrottlingException",
    "UnrecognizedClientException",
    "ValidationException",
}
# Recorded replies of operations that do not declare them.
RECORDED = {("GetKeyPolicy", "NotFoundException")}

succeeded = collections.Counter()
refused = collections.Counter()
wrong = []


def check(shape, value, at):
    """Appends to `wrong` what of `value` is not as `shape` has it."""

    def complain(text):
        wrong.append(f"{at}: {text}")

    kind = shape.type_name
    if kind == "structure":
        if not isinstance(value, dict):
            return complain(f"no object: {value!r}")
        for name in value.keys() - shape.members.keys():
            complain(f"has a member {name} that the model does not know")
        for name in set(shape.required_members) - value.keys():
            complain(f"lacks the required member {name}")
        for name, member in shape.members.items():
            if name in value:
                check(member, value[name], f"{at}.{name}")
        return None
    if kind == "list":
        if not isinstance(value, list):
            return complain(f"no list: {value!r}")
        return [check(shape.member, item, f"{at}[{i}]") for i, item in enumerate(value)]
    if kind == "map":
        if not isinstance(value, dict):
            return complain(f"no map: {value!r}")
        for name, item in value.items():
            check(shape.key, name, f"{at}.{name} (key)")
            check(shape.value, item, f"{at}.{name}")
        return None
    if kind == "boolean":
        return None if isinstance(value, bool) else complain(f"no boolean: {value!r}")
    if kind in ("integer", "long"):
        if not isinstance(value, int) or isinstance(value, bool):
            return complain(f"no integer: {value!r}")
        return bounds(shape, value, complain)
    if kind == "timestamp":
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            return complain(f"no number of seconds: {value!r}")
        year = datetime.datetime.fromtimestamp(value, datetime.UTC).year
        return None if 2020 < year < 2200 else complain(f"not in this century: {value!r}")
    if kind == "blob":
        try:
            length = len(base64.b64decode(value, validate=True))
        except (TypeError, ValueError):
            return complain("no base64")
        return bounds(shape, length, complain)
    if kind == "string":
        if not isinstance(value, str):
            return complain(f"no string: {value!r}")
        if shape.enum and value not in shape.enum:
            complain(f"{value!r} is none of the enumeration")
        pattern = shape.metadata.get("pattern")
        if pattern and not re.fullmatch(pattern, value):
            complain(f"{value!r} does not match {pattern}")
        return bounds(shape, len(value), complain)
    return complain(f"the model has a type {kind} that this test does not know")


def bounds(shape, value, complain):
    low, high = shape.metadata.get("min"), shape.metadata.get("max")
    if (low is not None and value < low) or (high is not None and value > high):
        complain(f"{value} is not in {low}..{high}")


def check_error(operation, status, body):
    at = f"{operation.name} (error)"
    refused[operation.name] += 1
    if set(body) - {"__type", "message", "Message"}:
        wrong.append(f"{at}: has other members: {sorted(body)}")
    code = body["__type"].rsplit("#")[-1]
    shapes = {shape.error_code: shape for shape in operation.error_shapes}
    shapes |= {shape.name: shape for shape in operation.error_shapes}
    if code in shapes:
        metadata = shapes[code].metadata
        expected = metadata.get("error", {}).get("httpStatusCode")
        expected = expected or (500 if metadata.get("fault") else 400)
        if status != expected:
            wrong.append(f"{at}: {code} has status {status}, not {expected}")
        return
    if code == "UnsupportedOperationException" and operation.name in CUSTOM_KEY_STORES:
        return
    if code not in UNDECLARED and (operation.name, code) not in RECORDED:
        wrong.append(f"{at}: does not declare {code}")
    if status != 400:
        wrong.append(f"{at}: {code} has status {status}")


def received(response_dict=None, parsed_response=None, event_name="", **_):
    operation = MODEL.operation_model(event_name.rsplit(".", 1)[-1])
    status, body = response_dict["status_code"], response_dict["body"]
    if status >= 300:
        return check_error(operation, status, json.loads(body))
    succeeded[operation.name] += 1
    if operation.output_shape is None:
        if body not in (b"", b"{}"):
            wrong.append(f"{operation.name}: has a body, the model has none: {body[:200]}")
        return None
    return check(operation.output_shape, json.loads(body), operation.name)


def watch(client):
    """Has every reply to this client looked at."""
    client.meta.events.register("response-received.kms", received)
    return client


watch(KMS)


class Shapes(unittest.TestCase):
    def setUp(self):
        wrong.clear()

    def tearDown(self):
        self.assertEqual(sorted(set(wrong)), [])

    def fails(self, code, call, **arguments):
        with self.assertRaises(botocore.exceptions.ClientError) as caught:
            call(**arguments)
        error = caught.exception.response["Error"]
        self.assertEqual(error["Code"], code, error)

    def key(self, **arguments):
        return KMS.create_key(**arguments)["KeyMetadata"]["KeyId"]

    def test_01_symmetric(self):
        key = self.key(Description="shape", Tags=[{"TagKey": "a", "TagValue": "b"}])
        other = self.key()
        KMS.describe_key(KeyId=key)
        KMS.update_key_description(KeyId=key, Description="another")
        sealed = KMS.encrypt(KeyId=key, Plaintext=b"x", EncryptionContext={"a": "b"})
        blob = {"CiphertextBlob": sealed["CiphertextBlob"]}
        KMS.decrypt(EncryptionContext={"a": "b"}, **blob)
        KMS.re_encrypt(SourceEncryptionContext={"a": "b"}, DestinationKeyId=other, **blob)
        KMS.generate_data_key(KeyId=key, KeySpec="AES_256")
        KMS.generate_data_key_without_plaintext(KeyId=key, NumberOfBytes=16)
        for spec in ("ECC_NIST_P256", "ECC_NIST_EDWARDS25519", "ML_KEM_768"):
            KMS.generate_data_key_pair(KeyId=key, KeyPairSpec=spec)
        KMS.generate_data_key_pair_without_plaintext(KeyId=key, KeyPairSpec="RSA_2048")
        KMS.generate_random(NumberOfBytes=12)
        self.fails("InvalidCiphertextException", KMS.decrypt, **blob)
        self.fails("InvalidCiphertextException", KMS.re_encrypt, DestinationKeyId=other, **blob)
        self.fails("InvalidKeyUsageException", KMS.sign, KeyId=key, Message=b"x",
                   SigningAlgorithm="ECDSA_SHA_256")
        self.fails("UnsupportedOperationException", KMS.get_public_key, KeyId=key)
        self.fails("ValidationException", KMS.generate_random, NumberOfBytes=1025)
        for call, arguments in (
            (KMS.encrypt, {"Plaintext": b"x"}),
            (KMS.generate_data_key, {"KeySpec": "AES_128"}),
            (KMS.generate_data_key_without_plaintext, {"KeySpec": "AES_128"}),
            (KMS.generate_data_key_pair, {"KeyPairSpec": "ECC_NIST_P256"}),
            (KMS.generate_data_key_pair_without_plaintext, {"KeyPairSpec": "ECC_NIST_P256"}),
        ):
            self.fails("DryRunOperationException", call, KeyId=key, DryRun=True, **arguments)

    def test_02_life(self):
        key = self.key()
        KMS.enable_key_rotation(KeyId=key, RotationPeriodInDays=100)
        KMS.get_key_rotation_status(KeyId=key)
        KMS.disable_key_rotation(KeyId=key)
        KMS.rotate_key_on_demand(KeyId=key)
        KMS.get_key_rotation_status(KeyId=key)
        KMS.list_key_rotations(KeyId=key)
        KMS.list_key_rotations(KeyId=key, IncludeKeyMaterial="ALL_KEY_MATERIAL", Limit=1)
        KMS.encrypt(KeyId=key, Plaintext=b"x")
        used = KMS.get_key_last_usage(KeyId=key)
        self.assertIn("TrackingStartDate", used)
        KMS.get_key_last_usage(KeyId=self.key())
        KMS.disable_key(KeyId=key)
        self.fails("DisabledException", KMS.encrypt, KeyId=key, Plaintext=b"x")
        for call in (KMS.enable_key_rotation, KMS.disable_key_rotation, KMS.rotate_key_on_demand):
            self.fails("DisabledException", call, KeyId=key)
        KMS.enable_key(KeyId=key)
        self.fails("KMSInvalidStateException", KMS.cancel_key_deletion, KeyId=key)
        KMS.schedule_key_deletion(KeyId=key, PendingWindowInDays=7)
        KMS.describe_key(KeyId=key)
        for call in (KMS.enable_key, KMS.disable_key, KMS.schedule_key_deletion):
            self.fails("KMSInvalidStateException", call, KeyId=key)
        self.fails("KMSInvalidStateException", KMS.update_key_description, KeyId=key, Description="x")
        KMS.cancel_key_deletion(KeyId=key)
        for call in (KMS.get_key_last_usage, KMS.get_key_rotation_status, KMS.list_key_rotations,
                     KMS.describe_key):
            self.fails("NotFoundException", call, KeyId="1234abcd-12ab-34cd-56ef-1234567890ab")
        self.fails("ValidationException", KMS.create_key, KeySpec="HMAC_256")
        # There are no custom key stores.
        with self.assertRaises(botocore.exceptions.ClientError):
            KMS.create_key(Origin="AWS_CLOUDHSM", CustomKeyStoreId="cks-1")
        self.fails("InvalidMarkerException", KMS.list_key_rotations, KeyId=key, Marker="nonsense")

    def test_03_aliases_tags_policies(self):
        key = self.key()
        KMS.create_alias(AliasName="alias/shape", TargetKeyId=key)
        self.fails("AlreadyExistsException", KMS.create_alias, AliasName="alias/shape", TargetKeyId=key)
        KMS.update_alias(AliasName="alias/shape", TargetKeyId=self.key())
        self.fails("NotFoundException", KMS.update_alias, AliasName="alias/absent", TargetKeyId=key)
        KMS.list_aliases()
        KMS.list_aliases(Limit=1)
        self.fails("InvalidMarkerException", KMS.list_aliases, Marker="nonsense")
        KMS.delete_alias(AliasName="alias/shape")
        self.fails("NotFoundException", KMS.delete_alias, AliasName="alias/shape")
        KMS.list_keys(Limit=1)
        self.fails("InvalidMarkerException", KMS.list_keys, Marker="nonsense")
        KMS.tag_resource(KeyId=key, Tags=[{"TagKey": f"t{i}", "TagValue": ""} for i in range(3)])
        KMS.list_resource_tags(KeyId=key, Limit=2)
        KMS.untag_resource(KeyId=key, TagKeys=["t1"])
        self.fails("TagException", KMS.tag_resource, KeyId=key, Tags=[{"TagKey": "aws:x", "TagValue": ""}])
        self.fails("NotFoundException", KMS.untag_resource, TagKeys=["a"],
                   KeyId="1234abcd-12ab-34cd-56ef-1234567890ab")
        self.fails("InvalidMarkerException", KMS.list_resource_tags, KeyId=key, Marker="nonsense")
        policy = KMS.get_key_policy(KeyId=key)["Policy"]
        KMS.put_key_policy(KeyId=key, Policy=policy)
        KMS.list_key_policies(KeyId=key)
        self.fails("MalformedPolicyDocumentException", KMS.put_key_policy, KeyId=key, Policy="{")
        absent = "1234abcd-12ab-34cd-56ef-1234567890ab"
        self.fails("NotFoundException", KMS.get_key_policy, KeyId=absent)
        self.fails("NotFoundException", KMS.list_key_policies, KeyId=absent)

    def test_04_grants(self):
        key = self.key()
        account = KMS.describe_key(KeyId=key)["KeyMetadata"]["AWSAccountId"]
        backup = f"arn:aws:iam::{account}:role/backup"
        arguments = {"KeyId": key, "GranteePrincipal": backup, "RetiringPrincipal": backup,
                     "Operations": ["Decrypt"],
                     "Constraints": {"EncryptionContextSubset": {"a": "b"}}}
        grants = [KMS.create_grant(Name=f"grant{i}", **arguments) for i in range(3)]
        KMS.list_grants(KeyId=key, Limit=2)
        KMS.list_retirable_grants(RetiringPrincipal=backup, Limit=2)
        self.fails("DryRunOperationException", KMS.create_grant, DryRun=True, **arguments)
        self.fails("DryRunOperationException", KMS.revoke_grant, KeyId=key,
                   GrantId=grants[0]["GrantId"], DryRun=True)
        KMS.revoke_grant(KeyId=key, GrantId=grants[0]["GrantId"])
        self.fails("NotFoundException", KMS.revoke_grant, KeyId=key, GrantId=grants[0]["GrantId"])
        KMS.retire_grant(GrantToken=grants[1]["GrantToken"])
        self.fails("InvalidGrantTokenException", KMS.retire_grant, GrantToken="nonsense")
        self.fails("InvalidMarkerException", KMS.list_grants, KeyId=key, Marker="nonsense")
        self.fails("InvalidMarkerException", KMS.list_retirable_grants, RetiringPrincipal=backup,
                   Marker="nonsense")

    def test_05_signing(self):
        for spec, algorithm in (
            ("ECC_NIST_P256", "ECDSA_SHA_256"),
            ("ECC_NIST_P521", "ECDSA_SHA_512"),
            ("ECC_SECG_P256K1", "ECDSA_SHA_256"),
            ("ECC_NIST_EDWARDS25519", "ED25519_SHA_512"),
            ("ML_DSA_44", "ML_DSA_SHAKE_256"),
            ("RSA_2048", "RSASSA_PSS_SHA_256"),
        ):
            with self.subTest(spec):
                how = {"KeyId": self.key(KeySpec=spec, KeyUsage="SIGN_VERIFY"),
                       "SigningAlgorithm": algorithm}
                KMS.get_public_key(KeyId=how["KeyId"])
                made = KMS.sign(Message=b"m", **how)["Signature"]
                KMS.verify(Message=b"m", Signature=made, **how)
                self.fails("KMSInvalidSignatureException", KMS.verify, Message=b"n", Signature=made, **how)
                self.fails("DryRunOperationException", KMS.sign, Message=b"m", DryRun=True, **how)
                self.fails("UnsupportedOperationException", KMS.enable_key_rotation, KeyId=how["KeyId"])

    def test_06_other_usages(self):
        how = {"KeyId": self.key(KeySpec="HMAC_256", KeyUsage="GENERATE_VERIFY_MAC"),
               "MacAlgorithm": "HMAC_SHA_256"}
        made = KMS.generate_mac(Message=b"m", **how)["Mac"]
        KMS.verify_mac(Message=b"m", Mac=made, **how)
        self.fails("KMSInvalidMacException", KMS.verify_mac, Message=b"n", Mac=made, **how)
        self.fails("DryRunOperationException", KMS.generate_mac, Message=b"m", DryRun=True, **how)

        rsa = {"KeyId": self.key(KeySpec="RSA_2048", KeyUsage="ENCRYPT_DECRYPT"),
               "EncryptionAlgorithm": "RSAES_OAEP_SHA_256"}
        KMS.get_public_key(KeyId=rsa["KeyId"])
        sealed = KMS.encrypt(Plaintext=b"m", **rsa)["CiphertextBlob"]
        KMS.decrypt(CiphertextBlob=sealed, **rsa)
        KMS.re_encrypt(CiphertextBlob=sealed, SourceKeyId=rsa["KeyId"],
                       SourceEncryptionAlgorithm="RSAES_OAEP_SHA_256", DestinationKeyId=self.key())

        agree = {"KeyId": self.key(KeySpec="ECC_NIST_P256", KeyUsage="KEY_AGREEMENT"),
                 "KeyAgreementAlgorithm": "ECDH"}
        KMS.get_public_key(KeyId=agree["KeyId"])
        peer = ec.generate_private_key(ec.SECP256R1()).public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        KMS.derive_shared_secret(PublicKey=peer, **agree)
        self.fails("DryRunOperationException", KMS.derive_shared_secret, PublicKey=peer, DryRun=True, **agree)

        kem = {"KeyId": self.key(KeySpec="ML_KEM_768", KeyUsage="ENCAPSULATE_DECAPSULATE"),
               "EncapsulationAlgorithm": "ML_KEM"}
        KMS.get_public_key(KeyId=kem["KeyId"])
        made = KMS.encapsulate(**kem)
        blob = made["SharedSecretCiphertextBlob"]
        opened = KMS.decapsulate(SharedSecretCiphertextBlob=blob, **kem)
        self.assertEqual(opened["SharedSecret"], made["SharedSecret"])
        self.fails("InvalidCiphertextException", KMS.decapsulate, SharedSecretCiphertextBlob=blob[1:], **kem)
        self.fails("DryRunOperationException", KMS.encapsulate, DryRun=True, **kem)

    def test_07_import(self):
        key = self.key(Origin="EXTERNAL")
        self.fails("KMSInvalidStateException", KMS.encrypt, KeyId=key, Plaintext=b"x")
        parameters = KMS.get_parameters_for_import(
            KeyId=key, WrappingAlgorithm="RSAES_OAEP_SHA_256", WrappingKeySpec="RSA_2048")
        public = serialization.load_der_public_key(parameters["PublicKey"])
        wrapped = public.encrypt(bytes(range(32)), padding.OAEP(
            mgf=padding.MGF1(hashes.SHA256()), algorithm=hashes.SHA256(), label=None))
        arguments = {"KeyId": key, "ImportToken": parameters["ImportToken"]}
        self.fails("InvalidCiphertextException", KMS.import_key_material,
                   EncryptedKeyMaterial=bytes(256), ExpirationModel="KEY_MATERIAL_DOES_NOT_EXPIRE", **arguments)
        tomorrow = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=1)
        KMS.import_key_material(
            EncryptedKeyMaterial=wrapped, ExpirationModel="KEY_MATERIAL_EXPIRES", ValidTo=tomorrow,
            KeyMaterialDescription="first", **arguments)
        KMS.describe_key(KeyId=key)
        KMS.list_key_rotations(KeyId=key, IncludeKeyMaterial="ALL_KEY_MATERIAL")
        KMS.encrypt(KeyId=key, Plaintext=b"x")
        KMS.delete_imported_key_material(KeyId=key)
        KMS.describe_key(KeyId=key)
        KMS.list_key_rotations(KeyId=key, IncludeKeyMaterial="ALL_KEY_MATERIAL")
        plain = self.key()
        self.fails("UnsupportedOperationException", KMS.delete_imported_key_material, KeyId=plain)
        self.fails("UnsupportedOperationException", KMS.get_parameters_for_import, KeyId=plain,
                   WrappingAlgorithm="RSAES_OAEP_SHA_256", WrappingKeySpec="RSA_2048")

    def test_08_multi_region(self):
        key = self.key(MultiRegion=True, Tags=[{"TagKey": "a", "TagValue": "b"}])
        KMS.describe_key(KeyId=key)
        KMS.replicate_key(KeyId=key, ReplicaRegion=SECOND_REGION, Tags=[{"TagKey": "a", "TagValue": "c"}])
        KMS.describe_key(KeyId=key)
        there = watch(boto3.client("kms", region_name=SECOND_REGION))
        replica = there.describe_key(KeyId=key)["KeyMetadata"]
        self.assertEqual(replica["MultiRegionConfiguration"]["MultiRegionKeyType"], "REPLICA")
        self.fails("AlreadyExistsException", KMS.replicate_key, KeyId=key, ReplicaRegion=SECOND_REGION)
        KMS.update_primary_region(KeyId=key, PrimaryRegion=SECOND_REGION)
        KMS.describe_key(KeyId=key)
        there.schedule_key_deletion(KeyId=key, PendingWindowInDays=7)
        there.describe_key(KeyId=key)
        single = self.key()
        self.fails("UnsupportedOperationException", KMS.replicate_key, KeyId=single, ReplicaRegion=SECOND_REGION)
        self.fails("UnsupportedOperationException", KMS.update_primary_region, KeyId=single,
                   PrimaryRegion=SECOND_REGION)

    def test_09_custom_key_stores(self):
        store = {"CustomKeyStoreId": "cks-1234567890abcdef0"}
        for call, arguments in (
            (KMS.create_custom_key_store, {"CustomKeyStoreName": "store"}),
            (KMS.connect_custom_key_store, store),
            (KMS.disconnect_custom_key_store, store),
            (KMS.describe_custom_key_stores, {}),
            (KMS.update_custom_key_store, store),
            (KMS.delete_custom_key_store, store),
        ):
            self.fails("UnsupportedOperationException", call, **arguments)

    def test_10_every_operation_answered(self):
        operations = set(MODEL.operation_names)
        self.assertEqual(len(operations), 56)
        self.assertEqual(operations - CUSTOM_KEY_STORES - succeeded.keys(), set())
        self.assertEqual(operations - refused.keys(), set())


if __name__ == "__main__":
    unittest.main()
