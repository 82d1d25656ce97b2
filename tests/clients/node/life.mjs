// The life of a key through the AWS SDK for JavaScript, with nothing but the environment that `kmsctl aws-config` prints.
import assert from "node:assert/strict";
import { test } from "node:test";
import {
  CancelKeyDeletionCommand,
  CreateAliasCommand,
  CreateKeyCommand,
  DecryptCommand,
  DescribeKeyCommand,
  DisabledException,
  DisableKeyCommand,
  EnableKeyCommand,
  EncryptCommand,
  GenerateDataKeyCommand,
  InvalidCiphertextException,
  KMSClient,
  KMSInvalidSignatureException,
  KMSInvalidStateException,
  NotFoundException,
  paginateListKeys,
  RotateKeyOnDemandCommand,
  ScheduleKeyDeletionCommand,
  SignCommand,
  VerifyCommand,
} from "@aws-sdk/client-kms";

const kms = new KMSClient({});
const text = (bytes) => Buffer.from(bytes).toString();

test("symmetric key", async () => {
  const { KeyMetadata: made } = await kms.send(new CreateKeyCommand({ Description: "JavaScript" }));
  assert.equal(made.KeyState, "Enabled");
  assert.ok(made.CreationDate instanceof Date);
  await kms.send(new CreateAliasCommand({ AliasName: "alias/node", TargetKeyId: made.KeyId }));
  const EncryptionContext = { purpose: "life" };
  const { CiphertextBlob } = await kms.send(
    new EncryptCommand({ KeyId: "alias/node", Plaintext: Buffer.from("secret"), EncryptionContext }),
  );
  const opened = await kms.send(new DecryptCommand({ CiphertextBlob, EncryptionContext }));
  assert.equal(text(opened.Plaintext), "secret");
  assert.equal(opened.KeyId, made.Arn);
  await assert.rejects(kms.send(new DecryptCommand({ CiphertextBlob })), InvalidCiphertextException);
  const dataKey = await kms.send(new GenerateDataKeyCommand({ KeyId: made.KeyId, KeySpec: "AES_256" }));
  const again = await kms.send(new DecryptCommand({ CiphertextBlob: dataKey.CiphertextBlob }));
  assert.deepEqual(again.Plaintext, dataKey.Plaintext);

  await kms.send(new RotateKeyOnDemandCommand({ KeyId: made.KeyId }));
  await kms.send(new DisableKeyCommand({ KeyId: made.KeyId }));
  await assert.rejects(
    kms.send(new DecryptCommand({ CiphertextBlob, EncryptionContext })),
    (error) => error instanceof DisabledException && error.message === `${made.Arn} is disabled.`,
  );
  await kms.send(new EnableKeyCommand({ KeyId: made.KeyId }));
  const planned = await kms.send(new ScheduleKeyDeletionCommand({ KeyId: made.KeyId, PendingWindowInDays: 7 }));
  assert.equal(planned.KeyState, "PendingDeletion");
  await assert.rejects(
    kms.send(new DecryptCommand({ CiphertextBlob, EncryptionContext })),
    KMSInvalidStateException,
  );
  await kms.send(new CancelKeyDeletionCommand({ KeyId: made.KeyId }));
  const described = await kms.send(new DescribeKeyCommand({ KeyId: "alias/node" }));
  assert.equal(described.KeyMetadata.KeyState, "Disabled");
  await assert.rejects(kms.send(new DescribeKeyCommand({ KeyId: "alias/nobody" })), NotFoundException);
  const listed = [];
  for await (const page of paginateListKeys({ client: kms, pageSize: 1 }, {})) {
    listed.push(...page.Keys.map((key) => key.KeyId));
  }
  assert.ok(listed.includes(made.KeyId));
});

test("signing key", async () => {
  const { KeyMetadata: made } = await kms.send(
    new CreateKeyCommand({ KeySpec: "ECC_NIST_P256", KeyUsage: "SIGN_VERIFY" }),
  );
  const how = { KeyId: made.KeyId, SigningAlgorithm: "ECDSA_SHA_256" };
  const { Signature } = await kms.send(new SignCommand({ ...how, Message: Buffer.from("message") }));
  const verified = await kms.send(new VerifyCommand({ ...how, Message: Buffer.from("message"), Signature }));
  assert.equal(verified.SignatureValid, true);
  await assert.rejects(
    kms.send(new VerifyCommand({ ...how, Message: Buffer.from("other"), Signature })),
    KMSInvalidSignatureException,
  );
});
