-- SPDX-License-Identifier: Apache-2.0
--
-- Wireshark's view of ntap's datagrams, as proto/WIRE.md has them: what is in clear of each, and all of it where the
-- session is not encrypted. make install-dissector puts it among the user's plugins; for once:
--
--     tshark -X lua_script:wireshark/ntap.lua -r FILE
--
-- Nothing that a datagram holds ends in an error of Lua: what is wrong with it is an expert info.
-- It is written for Lua 5.2 to 5.4: hence no operators on bits.

local ntap = Proto("ntap", "ntap, a network tap")

-- Sizes, bytes (WIRE.md, sections 2, 4 and 8).
local HEADER, TAG, PROLOGUE = 24, 16, 10
local REPORT, ANNOUNCE, KEYING = 104, 14, 1224
local MAX_FRAME, NO_RECORD = 262144, 0xFFFF

-- Chosen: more records of a datagram are not shown. 1,472 bytes hold some 350, a jumbo datagram some 2,000.
local MAX_RECORDS = 5000
-- Chosen: streams whose counters are followed.
local MAX_STREAMS = 65536

local DATA, ANNOUNCING, REPORTING, PARITY, KEYED = 0, 1, 2, 3, 4
local kinds = { [DATA] = "Data", [ANNOUNCING] = "Announce", [REPORTING] = "Report", [PARITY] = "Parity (reserved)", [KEYED] = "Keying" }
local suites = { [0] = "Plaintext, not encrypted", [1] = "AES-256-GCM", [2] = "ChaCha20-Poly1305" }
local directions = { [0] = "Not known", [1] = "Inbound", [2] = "Outbound", [3] = "Not allowed" }
-- https://www.tcpdump.org/linktypes.html
local links = { [0] = "BSD loopback", [1] = "Ethernet", [9] = "PPP", [101] = "Raw IP", [105] = "IEEE 802.11", [113] = "Linux cooked", [228] = "IPv4", [229] = "IPv6", [276] = "Linux cooked v2" }

local f = {
	version = ProtoField.uint8("ntap.version", "Version", base.DEC, nil, 0xF0),
	kind = ProtoField.uint8("ntap.kind", "Kind", base.DEC, kinds, 0x0F),
	key = ProtoField.uint8("ntap.key", "ID of the tap's key", base.DEC, nil, 0xF0),
	suite = ProtoField.uint8("ntap.suite", "Suite", base.DEC, suites, 0x0F),
	shard = ProtoField.uint16("ntap.shard", "Shard", base.DEC),
	tap = ProtoField.uint32("ntap.tap", "Tap ID", base.DEC),
	session = ProtoField.uint64("ntap.session", "Session", base.HEX),
	started = ProtoField.absolute_time("ntap.session.started", "Started", base.UTC),
	counter = ProtoField.uint64("ntap.counter", "Counter", base.DEC),
	epoch = ProtoField.uint64("ntap.epoch", "Epoch", base.DEC),
	missing = ProtoField.uint64("ntap.missing", "Datagrams missing before this one", base.DEC),
	ciphertext = ProtoField.bytes("ntap.ciphertext", "Ciphertext"),
	tag = ProtoField.bytes("ntap.tag", "Tag"),
	checksum = ProtoField.uint32("ntap.checksum", "Checksum (CRC-32C)", base.HEX),
	good = ProtoField.bool("ntap.checksum.good", "Checksum is right"),

	prologue = ProtoField.none("ntap.prologue", "Prologue"),
	base = ProtoField.absolute_time("ntap.base_time", "Base time", base.UTC),
	first = ProtoField.uint16("ntap.first", "First record that begins here, offset", base.DEC),
	rest = ProtoField.bytes("ntap.rest", "Rest of a record that began before"),
	records = ProtoField.uint32("ntap.records", "Records that begin here", base.DEC),
	padding = ProtoField.bytes("ntap.padding", "Padding"),

	record = ProtoField.none("ntap.record", "Record"),
	flags = ProtoField.uint8("ntap.record.flags", "Flags", base.HEX),
	direction = ProtoField.uint8("ntap.record.direction", "Direction", base.DEC, directions, 0x30),
	length = ProtoField.uint32("ntap.record.length", "Length, bytes", base.DEC),
	time = ProtoField.absolute_time("ntap.record.time", "Time", base.UTC),
	interface = ProtoField.uint32("ntap.record.interface", "Interface", base.DEC),
	link = ProtoField.uint16("ntap.record.link_type", "Link type", base.DEC, links),
	original = ProtoField.uint32("ntap.record.original_length", "Length on the wire, bytes", base.DEC),
	csum_start = ProtoField.uint16("ntap.record.csum_start", "Checksum not complete, covers from", base.DEC),
	csum_offset = ProtoField.uint16("ntap.record.csum_offset", "Checksum's place, from there", base.DEC),
	gso_type = ProtoField.uint8("ntap.record.gso_type", "GSO type", base.DEC),
	gso_size = ProtoField.uint16("ntap.record.gso_size", "GSO segment size, bytes", base.DEC),
	frame = ProtoField.bytes("ntap.record.frame", "Frame"),

	revision = ProtoField.uint32("ntap.announce.revision", "Revision", base.DEC),
	part = ProtoField.uint8("ntap.announce.part", "Part", base.DEC),
	parts = ProtoField.uint8("ntap.announce.parts", "Parts", base.DEC),
	sent = ProtoField.absolute_time("ntap.announce.time", "Time", base.UTC),
	text = ProtoField.string("ntap.announce.text", "Text of this part (JSON)"),

	final = ProtoField.uint32("ntap.report.final", "Final", base.DEC, nil, 1),
	report_flags = ProtoField.uint32("ntap.report.flags", "Flags", base.HEX),
	report_interface = ProtoField.uint32("ntap.report.interface", "Interface", base.DEC),
	report_time = ProtoField.absolute_time("ntap.report.time", "Time", base.UTC),

	collector = ProtoField.bytes("ntap.keying.collector", "Fingerprint of the collector's public key"),
	remote = ProtoField.bytes("ntap.keying.remote", "Fingerprint of the remote's public key"),
	encapsulation = ProtoField.bytes("ntap.keying.encapsulation", "Encapsulation (MLKEM768-X25519)"),
	signature = ProtoField.bytes("ntap.keying.signature", "Signature (Ed25519)"),
}

-- The counts of a report, in the order of the wire.
local counts = {
	{ "captured", "Captured, frames" }, { "kernel_drops", "Kernel drops, frames" }, { "freezes", "Freezes" }, { "too_long", "Too long, frames" },
	{ "shed", "Shed, frames" }, { "sealed", "Sealed, frames" }, { "sealed_bytes", "Sealed, bytes" }, { "next_data", "Counter of the next data datagram" },
	{ "sent", "Sent, datagrams" }, { "unsent", "Unsent, datagrams" }, { "refused", "Refused, times" },
}
for _, c in ipairs(counts) do
	f["report_" .. c[1]] = ProtoField.uint64("ntap.report." .. c[1], c[2], base.DEC)
end

local list = {}
for _, field in pairs(f) do
	list[#list + 1] = field
end
ntap.fields = list

local e = {
	short = ProtoExpert.new("ntap.short", "Too short", expert.group.MALFORMED, expert.severity.ERROR),
	version = ProtoExpert.new("ntap.bad_version", "Version not known", expert.group.UNDECODED, expert.severity.WARN),
	kind = ProtoExpert.new("ntap.bad_kind", "Kind not known", expert.group.UNDECODED, expert.severity.WARN),
	suite = ProtoExpert.new("ntap.bad_suite", "Suite not known", expert.group.UNDECODED, expert.severity.WARN),
	malformed = ProtoExpert.new("ntap.malformed", "Not what proto/WIRE.md allows", expert.group.MALFORMED, expert.severity.ERROR),
	checksum = ProtoExpert.new("ntap.bad_checksum", "Checksum wrong", expert.group.CHECKSUM, expert.severity.ERROR),
	clear = ProtoExpert.new("ntap.clear", "Not encrypted", expert.group.SECURITY, expert.severity.WARN),
	missing = ProtoExpert.new("ntap.gap", "Datagrams missing", expert.group.SEQUENCE, expert.severity.WARN),
	again = ProtoExpert.new("ntap.again", "Datagram comes late or again", expert.group.SEQUENCE, expert.severity.NOTE),
	sliced = ProtoExpert.new("ntap.sliced", "Cut by the capture: not shown further", expert.group.UNDECODED, expert.severity.NOTE),
	many = ProtoExpert.new("ntap.many", "More records than are shown", expert.group.UNDECODED, expert.severity.NOTE),
	inner = ProtoExpert.new("ntap.inner", "Frame not dissected", expert.group.UNDECODED, expert.severity.NOTE),
}
local experts = {}
for _, x in pairs(e) do
	experts[#experts + 1] = x
end
ntap.experts = experts

ntap.prefs.ports = Pref.range("UDP ports", "5678", "Ports of collectors. Elsewhere datagrams are known by what they look like", 65535)
ntap.prefs.frames = Pref.bool("Dissect frames", true, "Dissect the frames in datagrams that are not encrypted")
ntap.prefs.check = Pref.bool("Check checksums", true, "Check the CRC-32C of datagrams that are not encrypted")

-- Numbers. Those of 64 bits are UInt64 and Int64: a number of Lua 5.2 has 53.

-- uvarint reads a number from text s at index at (from 1), where it ends before index stop. It returns the number as
-- UInt64 and the index behind it; or nil and what is wrong.
local function uvarint(s, at, stop)
	local low, high = 0, 0 -- 32 bits each
	for i = 0, 9 do
		if at + i >= stop then
			return nil, "a number that does not end"
		end
		local c = s:byte(at + i)
		local group = c % 128
		if i < 4 then
			low = low + group * 2 ^ (7 * i)
		elseif i == 4 then
			low = low + group % 16 * 2 ^ 28
			high = math.floor(group / 16)
		else
			high = high + group * 2 ^ (7 * i - 32)
		end
		if c < 128 then
			if i > 0 and c == 0 then
				return nil, "a number that is longer than it has to be"
			elseif i == 9 and c > 1 then
				return nil, "a number of more than 64 bits"
			end
			return UInt64(low, high), at + i + 1
		end
	end
	return nil, "a number of more than 64 bits"
end

-- unzigzag returns the Int64 that a UInt64 stands for.
local function unzigzag(u)
	local n = Int64(u:rshift(1):lower(), u:rshift(1):higher())
	if u:lower() % 2 == 1 then
		return -n - 1
	end
	return n
end

-- nstime returns an Int64 of ns since 1970.
local function nstime(ns)
	local seconds = ns / 1000000000
	local rest = (ns - seconds * 1000000000):tonumber()
	seconds = seconds:tonumber()
	if rest < 0 then
		seconds, rest = seconds - 1, rest + 1000000000
	end
	return NSTime(seconds, rest)
end

-- CRC-32C (Castagnoli, RFC 3720, appendix B.4), reflected.
local bxor = bit and bit.bxor or bit32 and bit32.bxor
local crc_table
local function crc32c(s, stop)
	if not crc_table then
		crc_table = {}
		for i = 0, 255 do
			local c = i
			for _ = 1, 8 do
				if c % 2 == 1 then
					c = bxor(math.floor(c / 2), 0x82F63B78) % 2 ^ 32
				else
					c = math.floor(c / 2)
				end
			end
			crc_table[i] = c
		end
	end
	local c = 2 ^ 32 - 1
	for i = 1, stop do
		c = bxor(math.floor(c / 256), crc_table[bxor(c % 256, s:byte(i)) % 256]) % 2 ^ 32
	end
	return 2 ^ 32 - 1 - c
end

-- Counters of streams, as they were when the file was read the first time.
local streams, known, notes
function ntap.init()
	streams, known, notes = {}, 0, {}
end

-- follow notes what is missing before a datagram.
local function follow(number, key, counter)
	local stream = streams[key]
	if not stream then
		if known == MAX_STREAMS then
			streams, known = {}, 0
		end
		known = known + 1
		streams[key] = { next = counter + 1 }
		return
	end
	if counter < stream.next then
		notes[number] = -1
	elseif counter > stream.next then
		notes[number] = counter - stream.next
	end
	if counter >= stream.next then
		stream.next = counter + 1
	end
end

local inner = {}
for link, name in pairs({ [1] = "eth_withoutfcs", [101] = "ip", [228] = "ip", [229] = "ipv6", [113] = "sll" }) do
	local ok, d = pcall(Dissector.get, name)
	inner[link] = ok and d or nil
end

-- show_frame dissects one whole frame.
local function show_frame(range, link, pinfo, tree)
	local d = inner[link]
	if link == 101 and range(0, 1):uint() >= 0x60 then
		d = inner[229]
	end
	if not d or not ntap.prefs.frames then
		return
	end
	local ok = pcall(d.call, d, range:tvb(), pinfo, tree)
	if not ok then
		tree:add_proto_expert_info(e.inner)
	end
end

-- show_record shows the record at index at of text s, which ends at index stop, and returns the index behind it and the
-- time of it; or nil and what is wrong with it. Index 1 of s is offset 0 of tvb.
local function show_record(s, at, stop, time, tvb, pinfo, root)
	local flags = s:byte(at)
	local from = at
	local n, problem
	local function field(most) -- of what follows, or nil
		if problem then
			return
		end
		local next
		n, next = uvarint(s, at, stop)
		if not n then
			problem = next
			return
		end
		if n > UInt64(most, 0) then
			problem = "a number that is too large"
			return
		end
		local range = tvb(at - 1, next - at)
		at = next
		return n:tonumber(), range
	end
	local function has(bit)
		return math.floor(flags / bit) % 2 == 1
	end
	at = at + 1
	local length, length_range = field(MAX_FRAME)
	local delta, delta_range
	if not problem then
		local next
		delta, next = uvarint(s, at, stop)
		if delta then
			delta_range = tvb(at - 1, next - at)
			time, at = time + unzigzag(delta), next
		else
			problem = next
		end
	end
	local optional, link, original = {}, 1, length
	local function add(what, value, range)
		if value then
			optional[#optional + 1] = { what, range, value }
		end
	end
	if has(0x01) then
		local v, r = field(2 ^ 32 - 1)
		if v == 0 then
			problem = "interface 0, which has to be left out"
		end
		add(f.interface, v, r)
	end
	if has(0x40) then
		local v, r = field(2 ^ 16 - 1)
		if v == 1 then
			problem = "link type 1, which has to be left out"
		end
		link = v
		add(f.link, v, r)
	end
	if has(0x02) then
		local v, r = field(2 ^ 32 - 1)
		if v and v == length then
			problem = "an original length that is the length, which has to be left out"
		end
		original = v
		add(f.original, v, r)
	end
	if has(0x04) then
		add(f.csum_start, field(2 ^ 16 - 1))
		add(f.csum_offset, field(2 ^ 16 - 1))
	end
	if has(0x08) and not problem then
		if at >= stop then
			problem = "a record header that is cut"
		else
			if s:byte(at) == 0 then
				problem = "GSO type 0, which has to be left out"
			end
			add(f.gso_type, s:byte(at), tvb(at - 1, 1))
			at = at + 1
			add(f.gso_size, field(2 ^ 16 - 1))
		end
	end
	if has(0x20) and has(0x10) then
		problem = problem or "a direction that is not allowed"
	end
	if problem then
		return nil, "a record with " .. problem
	end
	local there = math.min(length, stop - at)
	local tree = root:add(f.record, tvb(from - 1, at + there - from))
	tree:append_text(string.format(": %d bytes", length))
	tree:add(f.flags, tvb(from - 1, 1))
	tree:add(f.direction, tvb(from - 1, 1))
	tree:add(f.length, length_range, length)
	tree:add(f.time, delta_range, nstime(time))
	for _, o in ipairs(optional) do
		tree:add(o[1], o[2], o[3])
	end
	if not has(0x40) then
		tree:add(f.link, 1):set_generated()
	end
	if there == 0 then
		return at, time
	end
	local range = tvb(at - 1, there)
	tree:add(f.frame, range)
	if there < length then
		tree:append_text(string.format(", of which %d are here", there))
	elseif original >= length then
		show_frame(range, link, pinfo, root)
	end
	return at + there, time
end

-- bad says what is wrong.
local function bad(tree, what, text)
	if text then -- nil is refused
		tree:add_proto_expert_info(what, text)
	else
		tree:add_proto_expert_info(what)
	end
end

-- show_data shows a data datagram's plaintext: s, up to index stop.
local function show_data(s, stop, tvb, pinfo, tree)
	if stop <= HEADER + PROLOGUE then
		return bad(tree, e.malformed, "Data without a prologue")
	end
	local prologue = tree:add(f.prologue, tvb(HEADER, PROLOGUE))
	local time = tvb(HEADER, 8):int64()
	prologue:add(f.base, tvb(HEADER, 8), nstime(time))
	prologue:add(f.first, tvb(HEADER + 8, 2))
	local first = tvb(HEADER + 8, 2):uint()
	local at = HEADER + PROLOGUE + 1
	local size = stop - 1 - HEADER -- of the plaintext
	if first ~= NO_RECORD and (first < PROLOGUE or first >= size) then
		return bad(prologue, e.malformed, string.format("The first record begins at %d: the plaintext has %d bytes", first, size))
	end
	local begins = first == NO_RECORD and stop or HEADER + first + 1
	if begins > at then
		tree:add(f.rest, tvb(at - 1, begins - at))
	end
	at = begins
	local records = 0
	while at < stop do
		if s:byte(at) < 128 then
			local other = s:find("[^\0]", at)
			if other and other < stop then
				bad(tree, e.malformed, "Padding that is not zero")
			else
				tree:add(f.padding, tvb(at - 1, stop - at))
			end
			break
		end
		if records == MAX_RECORDS then
			bad(tree, e.many, string.format("%d bytes of records are not shown", stop - at))
			break
		end
		local next, what = show_record(s, at, stop, time, tvb, pinfo, tree)
		if not next then
			bad(tree, e.malformed, string.format("At offset %d there is %s", at - 1 - HEADER, what))
			break
		end
		at, time, records = next, what, records + 1
	end
	tree:add(f.records, records):set_generated()
	return string.format(", %d records", records)
end

local function show_announce(s, stop, tvb, pinfo, tree)
	if stop - 1 - HEADER < ANNOUNCE then
		return bad(tree, e.malformed, "An announce that is too short")
	end
	tree:add(f.revision, tvb(HEADER, 4))
	tree:add(f.part, tvb(HEADER + 4, 1))
	tree:add(f.parts, tvb(HEADER + 5, 1))
	tree:add(f.sent, tvb(HEADER + 6, 8), nstime(tvb(HEADER + 6, 8):int64()))
	local part, parts = tvb(HEADER + 4, 1):uint(), tvb(HEADER + 5, 1):uint()
	if part >= parts then
		bad(tree, e.malformed, string.format("Part %d of %d: parts count from 0", part, parts))
	end
	local begin = HEADER + ANNOUNCE
	if stop - 1 > begin then
		local range = tvb(begin, stop - 1 - begin)
		local item = tree:add(f.text, range)
		if parts == 1 then
			local ok, json = pcall(Dissector.get, "json")
			if ok and json then
				pcall(json.call, json, range:tvb(), pinfo, item)
			end
		end
	end
end

local function show_report(s, stop, tvb, pinfo, tree)
	local length = stop - 1 - HEADER
	if length ~= REPORT then
		return bad(tree, e.malformed, string.format("A report of %d bytes; it has %d", length, REPORT))
	end
	tree:add(f.report_flags, tvb(HEADER, 4))
	tree:add(f.final, tvb(HEADER, 4))
	if tvb(HEADER, 4):uint() > 1 then
		bad(tree, e.malformed, "Flags of a report that are not known")
	end
	tree:add(f.report_interface, tvb(HEADER + 4, 4))
	tree:add(f.report_time, tvb(HEADER + 8, 8), nstime(tvb(HEADER + 8, 8):int64()))
	for i, c in ipairs(counts) do
		tree:add(f["report_" .. c[1]], tvb(HEADER + 8 + 8 * i, 8))
	end
end

local function show_keying(length, tvb, tree)
	if length ~= KEYING then
		return bad(tree, e.malformed, string.format("A keying of %d bytes; it has %d", length, KEYING))
	end
	if tvb(2, 2):uint() ~= 0 or tvb(16, 8):uint64() ~= UInt64(0) then
		bad(tree, e.malformed, "A keying is of shard 0 and has counter 0")
	end
	tree:add(f.collector, tvb(HEADER, 8))
	tree:add(f.remote, tvb(HEADER + 8, 8))
	tree:add(f.encapsulation, tvb(HEADER + 16, 1120))
	tree:add(f.signature, tvb(HEADER + 1136, 64))
end

-- show_tag shows the tag, and says whether what it is about can be believed.
local function show_tag(s, suite, tvb, tree)
	local length = tvb:len()
	local item = tree:add(f.tag, tvb(length - TAG, TAG))
	if suite ~= 0 then
		return
	end
	item:add(f.checksum, tvb(length - 4, 4))
	if not bxor or not ntap.prefs.check then
		return
	end
	local good = s:sub(length - TAG + 1, length - 4) == string.rep("\0", 12) and crc32c(s, length - TAG) == tvb(length - 4, 4):uint()
	item:add(f.good, good):set_generated()
	if not good then
		bad(item, e.checksum, "The checksum is wrong: the datagram was damaged, or is none of ntap")
	end
end

function ntap.dissector(tvb, pinfo, root)
	local length = tvb:len() -- as captured
	pinfo.cols.protocol = "ntap"
	local tree = root:add(ntap, tvb())
	if length == 0 then
		return 0
	end
	local whole = length == tvb:reported_len()
	tree:add(f.version, tvb(0, 1))
	tree:add(f.kind, tvb(0, 1))
	local version, kind = tvb(0, 1):bitfield(0, 4), tvb(0, 1):bitfield(4, 4)
	pinfo.cols.info = kinds[kind] or string.format("Kind %d", kind)
	if version ~= 1 then
		pinfo.cols.info = string.format("Version %d", version)
		bad(tree, e.version, string.format("Version %d: this is about version 1", version))
		return length
	end
	if length < HEADER then
		bad(tree, whole and e.short or e.sliced)
		return length
	end
	tree:add(f.key, tvb(1, 1))
	tree:add(f.suite, tvb(1, 1))
	local suite = tvb(1, 1):bitfield(4, 4)
	tree:add(f.shard, tvb(2, 2))
	tree:add(f.tap, tvb(4, 4))
	tree:add(f.session, tvb(8, 8)):add(f.started, tvb(8, 6), NSTime(tvb(8, 4):uint(), math.floor(tvb(12, 2):uint() * 1e9 / 65536)))
	tree:add(f.counter, tvb(16, 8)):add(f.epoch, tvb(16, 8), tvb(16, 8):uint64():rshift(24)):set_generated()
	local head = string.format("tap %d, shard %d", tvb(4, 4):uint(), tvb(2, 2):uint())
	tree:append_text(", " .. head)
	local info = string.format("%s, %s, counter %s", kinds[kind] or string.format("Kind %d", kind), head, tostring(tvb(16, 8):uint64()))
	pinfo.cols.info = info
	if not kinds[kind] or kind == PARITY then
		bad(tree, e.kind)
		return length
	end
	if not suites[suite] then
		bad(tree, e.suite)
	end
	if kind ~= KEYED and whole then
		if not pinfo.visited then
			follow(pinfo.number, tvb(0, 1):bytes():tohex() .. tvb(2, 14):bytes():tohex(), tvb(16, 8):uint64())
		end
		local note = notes[pinfo.number]
		if note == -1 then
			bad(tree, e.again)
		elseif note then
			tree:add(f.missing, note):set_generated()
			bad(tree, e.missing, tostring(note) .. " datagrams are missing before this one")
		end
	end
	if not whole then
		bad(tree, e.sliced)
		return length
	end
	if length < HEADER + TAG then
		bad(tree, e.short)
		return length
	end
	if kind == KEYED then
		show_keying(length, tvb, tree)
		return length
	end
	if suite ~= 0 then
		if length > HEADER + TAG then
			tree:add(f.ciphertext, tvb(HEADER, length - HEADER - TAG))
		end
		show_tag("", suite, tvb, tree)
		return length
	end
	bad(tree, e.clear)
	local s = tvb:raw()
	show_tag(s, suite, tvb, tree)
	local show = { [DATA] = show_data, [ANNOUNCING] = show_announce, [REPORTING] = show_report }
	local more = show[kind](s, length - TAG + 1, tvb, pinfo, tree)
	pinfo.cols.info:clear_fence() -- of the frames' own protocols
	pinfo.cols.protocol:clear_fence()
	pinfo.cols.protocol, pinfo.cols.info = "ntap", info .. (more or "")
	return length
end

-- looks says whether a UDP payload looks like a datagram of ntap.
local function looks(tvb)
	local length = tvb:len()
	if length < HEADER + TAG or tvb(0, 1):bitfield(0, 4) ~= 1 or tvb(1, 1):bitfield(4, 4) > 2 then
		return false
	end
	local kind = tvb(0, 1):bitfield(4, 4)
	if kind == PARITY or kind > KEYED or kind == KEYED and length ~= KEYING then
		return false
	end
	local started = tvb(8, 4):uint() -- 2020 to 2100
	return started > 1577836800 and started < 4102444800 and tvb(16, 2):uint() == 0 and tvb(2, 2):uint() < 4096
end

ntap:register_heuristic("udp", function(tvb, pinfo, root)
	if not looks(tvb) then
		return false
	end
	ntap.dissector(tvb, pinfo, root)
	return true
end)

-- The ports may be changed in the preferences.
local udp, ports = DissectorTable.get("udp.port"), nil
local function listen()
	if ports ~= ntap.prefs.ports then
		if ports then
			udp:remove(ports, ntap)
		end
		ports = ntap.prefs.ports
		udp:add(ports, ntap)
	end
end
ntap.prefs_changed = listen
listen()
