"""What kmsd's asymmetric and KEM keys do, against two other implementations, both ways: cryptography (PyPI) and the
openssl program.

usage: asymmetric_client.py SOCKET FOLDER
"""

import hashlib
import sys
import unittest

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import (
    ec,
    ed25519,
    mldsa,
    mlkem,
    padding,
    rsa,
    utils,
)

from kmsd_client import (
    CURVES,
    HASHES,
    MESSAGE,
    Refused,
    blob,
    call,
    create,
    openssl,
    public,
    public_der,
    put,
    put_public,
    sign,
    spki,
)


class Signatures(unittest.TestCase):
    def refuses_a_changed_message(self, key, algorithm, signature):
        with self.assertRaises(Refused) as caught:
            call(
                "Verify",
                KeyId=key,
                Message=b"attack at dusk",
                Signature=signature,
                SigningAlgorithm=algorithm,
            )
        self.assertEqual(str(caught.exception), "KMSInvalidSignatureException")

    def test_rsa(self):
        key = create("RSA_2048", "SIGN_VERIFY")
        other = public(key)
        self.assertEqual((other.key_size, other.public_numbers().e), (2048, 65537))
        file = put_public(key)
        for number, made in HASHES.items():
            kinds = {
                f"RSASSA_PKCS1_V1_5_SHA_{number}": padding.PKCS1v15(),
                f"RSASSA_PSS_SHA_{number}": padding.PSS(
                    padding.MGF1(made()), padding.PSS.DIGEST_LENGTH
                ),
            }
            digest = hashlib.new(f"sha{number}", MESSAGE).digest()
            for algorithm, pad in kinds.items():
                signature = sign(key, algorithm, MESSAGE)
                other.verify(signature, MESSAGE, pad, made())
                of_digest = sign(key, algorithm, digest, "DIGEST")
                other.verify(of_digest, digest, pad, utils.Prehashed(made()))
                self.refuses_a_changed_message(key, algorithm, signature)
                options = ["-sigopt", "rsa_padding_mode:pss", "-sigopt", "rsa_pss_saltlen:digest"]
                openssl(
                    "dgst",
                    f"-sha{number}",
                    "-verify",
                    file,
                    "-signature",
                    put("signature", signature),
                    *(options if "PSS" in algorithm else []),
                    data=MESSAGE,
                )

    def test_ecdsa(self):
        for spec, curve in CURVES.items():
            key = create(spec, "SIGN_VERIFY")
            other = public(key)
            self.assertIsInstance(other.curve, curve)
            number = {"ECC_NIST_P384": "384", "ECC_NIST_P521": "512"}.get(spec, "256")
            algorithm, made = f"ECDSA_SHA_{number}", HASHES[number]
            digest = hashlib.new(f"sha{number}", MESSAGE).digest()
            signature = sign(key, algorithm, MESSAGE)
            other.verify(signature, MESSAGE, ec.ECDSA(made()))
            of_digest = sign(key, algorithm, digest, "DIGEST")
            other.verify(of_digest, digest, ec.ECDSA(utils.Prehashed(made())))
            self.refuses_a_changed_message(key, algorithm, signature)
            arguments = ["-verify", put_public(key), "-signature", put("signature", signature)]
            openssl("dgst", f"-sha{number}", *arguments, data=MESSAGE)

    def test_ed25519(self):
        key = create("ECC_NIST_EDWARDS25519", "SIGN_VERIFY")
        other = public(key)
        self.assertIsInstance(other, ed25519.Ed25519PublicKey)
        signature = sign(key, "ED25519_SHA_512", MESSAGE)
        other.verify(signature, MESSAGE)
        self.refuses_a_changed_message(key, "ED25519_SHA_512", signature)
        arguments = ["-rawin", "-sigfile", put("signature", signature), "-in", put("message", MESSAGE)]
        openssl("pkeyutl", "-verify", "-pubin", "-keyform", "DER", "-inkey", put_public(key), *arguments)
        # Nobody else here has the prehashed form: that it is another one is seen at least.
        prehashed = sign(key, "ED25519_PH_SHA_512", hashlib.sha512(MESSAGE).digest(), "DIGEST")
        with self.assertRaises(InvalidSignature):
            other.verify(prehashed, hashlib.sha512(MESSAGE).digest())

    def test_ml_dsa(self):
        for size in ("44", "65", "87"):
            key = create(f"ML_DSA_{size}", "SIGN_VERIFY")
            der = public_der(key)
            other = serialization.load_der_public_key(der)
            self.assertIsInstance(other, getattr(mldsa, f"MLDSA{size}PublicKey"))
            algorithm = "ML_DSA_SHAKE_256"
            other.verify(sign(key, algorithm, MESSAGE), MESSAGE)
            # FIPS 204, algorithm 7, line 6, with an empty context.
            tr = hashlib.shake_256(other.public_bytes_raw()).digest(64)
            mu = hashlib.shake_256(tr + b"\0\0" + MESSAGE).digest(64)
            signature = sign(key, algorithm, mu, "EXTERNAL_MU")
            other.verify(signature, MESSAGE)
            self.refuses_a_changed_message(key, algorithm, signature)

    def test_sm2(self):
        key = create("SM2", "SIGN_VERIFY")
        signature = sign(key, "SM2DSA", MESSAGE)
        arguments = ["-rawin", "-digest", "sm3", "-sigfile", put("signature", signature)]
        openssl(
            "pkeyutl",
            "-verify",
            "-pubin",
            "-keyform",
            "DER",
            "-inkey",
            put_public(key),
            "-in",
            put("message", MESSAGE),
            "-pkeyopt",
            "distid:1234567812345678",
            *arguments,
        )


class Encryption(unittest.TestCase):
    def test_rsa(self):
        key = create("RSA_3072", "ENCRYPT_DECRYPT")
        other, file = public(key), put_public(key)
        for name, made in (("SHA_1", hashes.SHA1), ("SHA_256", hashes.SHA256)):
            algorithm = f"RSAES_OAEP_{name}"
            oaep = padding.OAEP(padding.MGF1(made()), made(), None)
            options = ["rsa_padding_mode:oaep"]
            digest = name.replace("_", "").lower()
            options += [f"rsa_oaep_md:{digest}", f"rsa_mgf1_md:{digest}"]
            options = [word for option in options for word in ("-pkeyopt", option)]
            sealed = [
                other.encrypt(MESSAGE, oaep),
                openssl(
                    "pkeyutl",
                    "-encrypt",
                    "-pubin",
                    "-keyform",
                    "DER",
                    "-inkey",
                    file,
                    "-in",
                    put("message", MESSAGE),
                    *options,
                ),
                blob(
                    call("Encrypt", KeyId=key, Plaintext=MESSAGE, EncryptionAlgorithm=algorithm),
                    "CiphertextBlob",
                ),
            ]
            for ciphertext in sealed:
                opened = call(
                    "Decrypt",
                    KeyId=key,
                    CiphertextBlob=ciphertext,
                    EncryptionAlgorithm=algorithm,
                )
                self.assertEqual(blob(opened, "Plaintext"), MESSAGE)

    def test_rsa_data_key_pair(self):
        wrapping = create("SYMMETRIC_DEFAULT", "ENCRYPT_DECRYPT")
        pair = call("GenerateDataKeyPair", KeyId=wrapping, KeyPairSpec="RSA_2048")
        private = serialization.load_der_private_key(blob(pair, "PrivateKeyPlaintext"), None)
        self.assertIsInstance(private, rsa.RSAPrivateKey)
        self.assertEqual(spki(private.public_key()), blob(pair, "PublicKey"))
        checked = openssl("pkey", "-inform", "DER", "-check", "-noout", data=blob(pair, "PrivateKeyPlaintext"))
        self.assertIn(b"Key is valid", checked)

    def test_sm2(self):
        key = create("SM2", "ENCRYPT_DECRYPT")
        sealed = openssl(
            "pkeyutl",
            "-encrypt",
            "-pubin",
            "-keyform",
            "DER",
            "-inkey",
            put_public(key),
            "-in",
            put("message", MESSAGE),
        )
        opened = call("Decrypt", KeyId=key, CiphertextBlob=sealed, EncryptionAlgorithm="SM2PKE")
        self.assertEqual(blob(opened, "Plaintext"), MESSAGE)


class Secrets(unittest.TestCase):
    def test_ecdh(self):
        for spec, curve in CURVES.items():
            if spec == "ECC_SECG_P256K1":
                continue
            key = create(spec, "KEY_AGREEMENT")
            peer = ec.generate_private_key(curve())
            agreed = call(
                "DeriveSharedSecret",
                KeyId=key,
                KeyAgreementAlgorithm="ECDH",
                PublicKey=spki(peer.public_key()),
            )
            secret = peer.exchange(ec.ECDH(), public(key))
            self.assertEqual(blob(agreed, "SharedSecret"), secret)
            private = peer.private_bytes(
                serialization.Encoding.DER,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
            derived = openssl(
                "pkeyutl",
                "-derive",
                "-keyform",
                "DER",
                "-inkey",
                put("private.der", private),
                "-peerform",
                "DER",
                "-peerkey",
                put_public(key),
            )
            self.assertEqual(derived, secret)

    def test_ml_kem(self):
        for size in ("768", "1024"):
            key = create(f"ML_KEM_{size}", "ENCAPSULATE_DECAPSULATE")
            other = public(key)
            self.assertIsInstance(other, getattr(mlkem, f"MLKEM{size}PublicKey"))
            parts = other.encapsulate()
            secret, ciphertext = sorted(parts, key=len)
            opened = call(
                "Decapsulate",
                KeyId=key,
                SharedSecretCiphertextBlob=ciphertext,
                EncapsulationAlgorithm="ML_KEM",
            )
            self.assertEqual(blob(opened, "SharedSecret"), secret)


class DataKeyPairs(unittest.TestCase):
    def test_every_kind_is_read_by_others(self):
        wrapping = create("SYMMETRIC_DEFAULT", "ENCRYPT_DECRYPT")
        kinds = [*CURVES, "ECC_NIST_EDWARDS25519", "ML_KEM_768", "ML_KEM_1024"]
        for kind in kinds:
            pair = call(
                "GenerateDataKeyPair",
                KeyId=wrapping,
                KeyPairSpec=kind,
                EncryptionContext={"kind": kind},
            )
            plain = blob(pair, "PrivateKeyPlaintext")
            private = serialization.load_der_private_key(plain, None)
            self.assertEqual(spki(private.public_key()), blob(pair, "PublicKey"), kind)
            opened = call(
                "Decrypt",
                CiphertextBlob=blob(pair, "PrivateKeyCiphertextBlob"),
                EncryptionContext={"kind": kind},
            )
            self.assertEqual(blob(opened, "Plaintext"), plain)


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0]])
