"""Key material that others made and wrapped. Since both sides have the private key, each verifies, opens and decapsulates
what the other one made: cryptography (PyPI) and the openssl program.

usage: imported_client.py SOCKET FOLDER
"""

import hashlib
import hmac
import os
import sys
import unittest

from cryptography.hazmat.primitives import hashes, keywrap, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, mlkem, padding, rsa, utils

from kmsd_client import CURVES, HASHES, MESSAGE, Refused, blob, call, openssl, public_der, put, sign, spki

OAEP = {"SHA_1": hashes.SHA1, "SHA_256": hashes.SHA256}


def oaep(made):
    return padding.OAEP(padding.MGF1(made()), made(), None)


def wrap(algorithm, public, material):
    """As the documentation of AWS KMS has it, by cryptography alone."""
    name, _, digest = algorithm.partition("_SHA_")
    pad = oaep(OAEP[f"SHA_{digest}"])
    if name == "RSAES_OAEP":
        return public.encrypt(material, pad)
    ephemeral = os.urandom(32)
    return public.encrypt(ephemeral, pad) + keywrap.aes_key_wrap_with_padding(ephemeral, material)


def imported(spec, usage, material, algorithm="RSA_AES_KEY_WRAP_SHA_256", wrapping="RSA_2048"):
    """A new key with this key material."""
    made = call("CreateKey", KeySpec=spec, KeyUsage=usage, Origin="EXTERNAL")
    key = {"KeyId": made["KeyMetadata"]["KeyId"]}
    given = call("GetParametersForImport", WrappingAlgorithm=algorithm, WrappingKeySpec=wrapping, **key)
    public = serialization.load_der_public_key(blob(given, "PublicKey"))
    call(
        "ImportKeyMaterial",
        ImportToken=blob(given, "ImportToken"),
        EncryptedKeyMaterial=wrap(algorithm, public, material),
        ExpirationModel="KEY_MATERIAL_DOES_NOT_EXPIRE",
        **key,
    )
    return key["KeyId"]


def pkcs8(private):
    return private.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def put_private(private):
    return put("private.der", private if isinstance(private, bytes) else pkcs8(private))


class Imported(unittest.TestCase):
    def verifies(self, key, algorithm, signature, message=MESSAGE, kind="RAW"):
        """kmsd takes a signature of another, and not for anything else."""
        how = {"KeyId": key, "SigningAlgorithm": algorithm, "MessageType": kind, "Signature": signature}
        self.assertTrue(call("Verify", Message=message, **how)["SignatureValid"])
        changed = message[:-1] + bytes([message[-1] ^ 1])
        with self.assertRaises(Refused) as caught:
            call("Verify", Message=changed, **how)
        self.assertEqual(str(caught.exception), "KMSInvalidSignatureException")

    def same_public(self, key, private):
        self.assertEqual(public_der(key), spki(private.public_key()))


class Wrapping(Imported):
    def test_every_algorithm(self):
        algorithms = [f"{name}_{digest}" for name in ("RSAES_OAEP", "RSA_AES_KEY_WRAP") for digest in OAEP]
        for algorithm in algorithms:
            wrappings = ["RSA_2048", "RSA_3072"] if algorithm.endswith("256") else ["RSA_2048"]
            for wrapping in wrappings:
                with self.subTest(algorithm=algorithm, wrapping=wrapping):
                    material = os.urandom(32)
                    key = imported("HMAC_256", "GENERATE_VERIFY_MAC", material, algorithm, wrapping)
                    made = call("GenerateMac", KeyId=key, Message=MESSAGE, MacAlgorithm="HMAC_SHA_256")
                    mac = hmac.new(material, MESSAGE, "sha256").digest()
                    self.assertEqual(blob(made, "Mac"), mac)
                    call("VerifyMac", KeyId=key, Message=MESSAGE, MacAlgorithm="HMAC_SHA_256", Mac=mac)

    def test_lengths_of_padded_wraps(self):
        # What is not a multiple of eight bytes is padded (RFC 5649).
        for spec, number in (("HMAC_224", 224), ("HMAC_384", 384), ("HMAC_512", 512)):
            material = os.urandom(number // 8)
            key = imported(spec, "GENERATE_VERIFY_MAC", material)
            made = call("GenerateMac", KeyId=key, Message=MESSAGE, MacAlgorithm=f"HMAC_SHA_{number}")
            self.assertEqual(blob(made, "Mac"), hmac.new(material, MESSAGE, f"sha{number}").digest())

    def test_what_is_altered_is_refused(self):
        made = call("CreateKey", KeySpec="HMAC_256", KeyUsage="GENERATE_VERIFY_MAC", Origin="EXTERNAL")
        key = {"KeyId": made["KeyMetadata"]["KeyId"]}
        algorithm = "RSA_AES_KEY_WRAP_SHA_256"
        given = call("GetParametersForImport", WrappingAlgorithm=algorithm, WrappingKeySpec="RSA_2048", **key)
        public = serialization.load_der_public_key(blob(given, "PublicKey"))
        wrapped = wrap(algorithm, public, os.urandom(32))
        for at in (0, 255, 256, len(wrapped) - 1):
            changed = bytearray(wrapped)
            changed[at] ^= 1
            with self.assertRaises(Refused) as caught:
                call("ImportKeyMaterial", ImportToken=blob(given, "ImportToken"), EncryptedKeyMaterial=bytes(changed),
                     ExpirationModel="KEY_MATERIAL_DOES_NOT_EXPIRE", **key)
            self.assertEqual(str(caught.exception), "InvalidCiphertextException")


class Signatures(Imported):
    def test_rsa(self):
        private = rsa.generate_private_key(65537, 2048)
        key = imported("RSA_2048", "SIGN_VERIFY", pkcs8(private))
        self.same_public(key, private)
        for number, made in HASHES.items():
            digest = hashlib.new(f"sha{number}", MESSAGE).digest()
            pss = padding.PSS(padding.MGF1(made()), padding.PSS.DIGEST_LENGTH)
            for name, pad in (("PKCS1_V1_5", padding.PKCS1v15()), ("PSS", pss)):
                algorithm = f"RSASSA_{name}_SHA_{number}"
                signature = private.sign(MESSAGE, pad, made())
                self.verifies(key, algorithm, signature)
                self.verifies(key, algorithm, signature, digest, "DIGEST")
                options = ["-sigopt", "rsa_padding_mode:pss", "-sigopt", "rsa_pss_saltlen:digest"]
                arguments = ["-keyform", "DER", "-sign", put_private(private), *(options if name == "PSS" else [])]
                self.verifies(key, algorithm, openssl("dgst", f"-sha{number}", *arguments, data=MESSAGE))
                # PKCS #1 v1.5 is deterministic.
                if name == "PKCS1_V1_5":
                    self.assertEqual(sign(key, algorithm, MESSAGE), signature)

    def test_ecdsa(self):
        for spec, curve in CURVES.items():
            with self.subTest(spec):
                private = ec.generate_private_key(curve())
                key = imported(spec, "SIGN_VERIFY", pkcs8(private))
                self.same_public(key, private)
                number = {"ECC_NIST_P384": "384", "ECC_NIST_P521": "512"}.get(spec, "256")
                algorithm, made = f"ECDSA_SHA_{number}", HASHES[number]
                self.verifies(key, algorithm, private.sign(MESSAGE, ec.ECDSA(made())))
                digest = hashlib.new(f"sha{number}", MESSAGE).digest()
                of_digest = private.sign(digest, ec.ECDSA(utils.Prehashed(made())))
                self.verifies(key, algorithm, of_digest, digest, "DIGEST")
                arguments = ["-keyform", "DER", "-sign", put_private(private)]
                self.verifies(key, algorithm, openssl("dgst", f"-sha{number}", *arguments, data=MESSAGE))
                private.public_key().verify(sign(key, algorithm, MESSAGE), MESSAGE, ec.ECDSA(made()))

    def test_ed25519(self):
        private = ed25519.Ed25519PrivateKey.generate()
        key = imported("ECC_NIST_EDWARDS25519", "SIGN_VERIFY", pkcs8(private))
        self.same_public(key, private)
        signature = private.sign(MESSAGE)
        self.verifies(key, "ED25519_SHA_512", signature)
        arguments = ["-rawin", "-in", put("message", MESSAGE), "-keyform", "DER", "-inkey", put_private(private)]
        self.assertEqual(openssl("pkeyutl", "-sign", *arguments), signature)
        self.assertEqual(sign(key, "ED25519_SHA_512", MESSAGE), signature)

    def test_ml_dsa(self):
        for size in ("44", "65", "87"):
            with self.subTest(size):
                private = getattr(mldsa, f"MLDSA{size}PrivateKey").generate()
                key = imported(f"ML_DSA_{size}", "SIGN_VERIFY", pkcs8(private))
                self.same_public(key, private)
                algorithm = "ML_DSA_SHAKE_256"
                self.verifies(key, algorithm, private.sign(MESSAGE))
                tr = hashlib.shake_256(private.public_key().public_bytes_raw()).digest(64)
                mu = hashlib.shake_256(tr + b"\0\0" + MESSAGE).digest(64)
                self.verifies(key, algorithm, private.sign_mu(mu), mu, "EXTERNAL_MU")
                private.public_key().verify(sign(key, algorithm, MESSAGE), MESSAGE)

    def test_sm2(self):
        put("sm2.der", openssl("genpkey", "-algorithm", "SM2", "-outform", "DER"))
        arguments = ["-topk8", "-nocrypt", "-inform", "DER", "-outform", "DER", "-in", "sm2.der"]
        private = openssl("pkcs8", *arguments)
        key = imported("SM2", "SIGN_VERIFY", private)
        signature = openssl(
            "pkeyutl", "-sign", "-keyform", "DER", "-inkey", "sm2.der", "-in", put("message", MESSAGE),
            "-rawin", "-digest", "sm3", "-pkeyopt", "distid:1234567812345678",
        )
        self.verifies(key, "SM2DSA", signature)


class Encryption(Imported):
    def test_rsa(self):
        private = rsa.generate_private_key(65537, 2048)
        key = imported("RSA_2048", "ENCRYPT_DECRYPT", pkcs8(private))
        for name, made in OAEP.items():
            algorithm = f"RSAES_OAEP_{name}"
            sealed = call("Encrypt", KeyId=key, Plaintext=MESSAGE, EncryptionAlgorithm=algorithm)
            sealed = blob(sealed, "CiphertextBlob")
            self.assertEqual(private.decrypt(sealed, oaep(made)), MESSAGE)
            digest = name.replace("_", "").lower()
            options = ["rsa_padding_mode:oaep", f"rsa_oaep_md:{digest}", f"rsa_mgf1_md:{digest}"]
            options = [word for option in options for word in ("-pkeyopt", option)]
            arguments = ["-keyform", "DER", "-inkey", put_private(private), "-in", put("sealed", sealed)]
            self.assertEqual(openssl("pkeyutl", "-decrypt", *arguments, *options), MESSAGE)

    def test_sm2(self):
        put("sm2.der", openssl("genpkey", "-algorithm", "SM2", "-outform", "DER"))
        arguments = ["-topk8", "-nocrypt", "-inform", "DER", "-outform", "DER", "-in", "sm2.der"]
        key = imported("SM2", "ENCRYPT_DECRYPT", openssl("pkcs8", *arguments))
        sealed = call("Encrypt", KeyId=key, Plaintext=MESSAGE, EncryptionAlgorithm="SM2PKE")
        arguments = ["-keyform", "DER", "-inkey", "sm2.der", "-in", put("sealed", blob(sealed, "CiphertextBlob"))]
        self.assertEqual(openssl("pkeyutl", "-decrypt", *arguments), MESSAGE)


class Secrets(Imported):
    def test_ecdh(self):
        for spec in ("ECC_NIST_P256", "ECC_NIST_P384", "ECC_NIST_P521"):
            private, peer = (ec.generate_private_key(CURVES[spec]()) for _ in range(2))
            key = imported(spec, "KEY_AGREEMENT", pkcs8(private))
            agreed = call(
                "DeriveSharedSecret", KeyId=key, KeyAgreementAlgorithm="ECDH", PublicKey=spki(peer.public_key())
            )
            self.assertEqual(blob(agreed, "SharedSecret"), private.exchange(ec.ECDH(), peer.public_key()))

    def test_ml_kem(self):
        for size in ("768", "1024"):
            with self.subTest(size):
                private = getattr(mlkem, f"MLKEM{size}PrivateKey").generate()
                key = imported(f"ML_KEM_{size}", "ENCAPSULATE_DECAPSULATE", pkcs8(private))
                self.same_public(key, private)
                made = call("Encapsulate", KeyId=key, EncapsulationAlgorithm="ML_KEM")
                secret = private.decapsulate(blob(made, "SharedSecretCiphertextBlob"))
                self.assertEqual(secret, blob(made, "SharedSecret"))


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0]])
