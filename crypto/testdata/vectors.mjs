// SPDX-License-Identifier: Apache-2.0
//
// Known answers of docs/KEYS.md, computed by Node's crypto module (OpenSSL):
//
//	node crypto/testdata/vectors.mjs >crypto/testdata/vectors.json
//
// Nothing here is random: the output changes only with this file.

import { createCipheriv, createHmac, hkdfSync } from 'node:crypto'

const text = s => Buffer.from(s, 'ascii')
const be = (n, bytes) => Buffer.from(BigInt(n).toString(16).padStart(2 * bytes, '0'), 'hex')
const hkdf = (ikm, salt, info) => Buffer.from(hkdfSync('sha256', ikm, salt, info, 32))

// RFC 5869, section 2.3, for at most one hash of output.
const expand = (prk, info, bytes) =>
  createHmac('sha256', prk).update(info).update(Buffer.of(1)).digest().subarray(0, bytes)

// CRC-32C bit by bit, reflected polynomial 0x82F63B78.
function crc32c(b) {
  let crc = 0xFFFFFFFF
  for (const byte of b) {
    crc ^= byte
    for (let i = 0; i < 8; i++) crc = (crc >>> 1) ^ (crc & 1 ? 0x82F63B78 : 0)
  }
  return (crc ^ 0xFFFFFFFF) >>> 0
}

const suites = [['plaintext'], ['aes-256-gcm', 'aes-256-gcm'], ['chacha20-poly1305', 'chacha20-poly1305']]

function seal(suite, key, iv, counter, header, plaintext) {
  if (suite === 0) {
    return Buffer.concat([header, plaintext, Buffer.alloc(12), be(crc32c(Buffer.concat([header, plaintext])), 4)])
  }
  const nonce = be(BigInt('0x' + iv.toString('hex')) ^ BigInt(counter), 12)
  const c = createCipheriv(suites[suite][1], key, nonce, { authTagLength: 16 })
  c.setAAD(header, { plaintextLength: plaintext.length })
  return Buffer.concat([header, c.update(plaintext), c.final(), c.getAuthTag()])
}

const master = Buffer.from(Array.from({ length: 32 }, (_, i) => i * 7 + 1 & 255))
const taps = [0, 1, 7, 0xFFFFFFFF].map(id => [id, hkdf(master, '', Buffer.concat([text('ntap v1 tap'), be(id, 4)]))])

const streams = []
for (const [id, tap] of taps.slice(1, 3)) {
  for (const suite of [0, 1, 2]) {
    for (const [kind, shard, session] of [[0, 0, 0x6543210000000001n], [2, 513, 0xFEDCBA9876543210n]]) {
      const info = Buffer.concat([text('ntap v1 shard'), Buffer.of(suite, kind), be(shard, 2)])
      let secret = hkdf(tap, be(session, 8), info)
      const epochs = []
      for (let e = 0; e < 6; e++) {
        const key = expand(secret, text('ntap v1 key'), 32)
        const iv = expand(secret, text('ntap v1 iv'), 12)
        const sealed = []
        for (const low of [0, 1, 0xFFFFFF]) {
          const counter = (BigInt(e) << 24n) + BigInt(low)
          const header = Buffer.from(Array.from({ length: 24 }, (_, i) => i * 11 + e & 255))
          const plaintext = Buffer.from(Array.from({ length: [0, 1, 67][(e + low) % 3] }, (_, i) => i * 13 + low & 255))
          sealed.push({
            counter: counter.toString(), header: header.length, plaintext: plaintext.toString('hex'),
            datagram: seal(suite, key, iv, counter, header, plaintext).toString('hex'),
          })
        }
        epochs.push({ secret: secret.toString('hex'), key: key.toString('hex'), iv: iv.toString('hex'), sealed })
        secret = expand(secret, text('ntap v1 next'), 32)
      }
      streams.push({ tap: id, suite: suites[suite][0], kind, shard, session: session.toString(), epochs })
    }
  }
}

const zeros = Object.fromEntries([0, 1, 2].map(suite =>
  [suites[suite][0], seal(suite, Buffer.alloc(32), Buffer.alloc(12), 0, Buffer.alloc(0), Buffer.alloc(16)).toString('hex')]))

console.log(JSON.stringify({
  by: 'node crypto/testdata/vectors.mjs',
  master: master.toString('hex'),
  taps: taps.map(([id, key]) => ({ id, key: key.toString('hex') })),
  zeros, // 16 zero bytes, no header, under key, IV and counter 0
  streams,
}, null, 1))
