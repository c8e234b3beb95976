-- Wireshark's dissector for the messages between kernels that `popnet trace -w FILE.pcapng` writes.
--
--     wireshark -X lua_script:tools/wireshark/popnet.lua FILE.pcapng
--
-- or put this file into the directory that Help > About > Folders calls "Personal Lua Plugins". The packets
-- have link type 147 (USER0); docs/tracing.md describes them, docs/messages.md what is in them.

local popnet = Proto("popnet", "popnet message")

-- Written by tools/wireshark/kinds.py from popnet/message; do not edit.
-- BEGIN TABLES
local KINDS = {
    [1] = "OPEN",
    [2] = "ACCEPT",
    [3] = "REFUSE",
    [4] = "DATA",
    [5] = "CREDIT",
    [6] = "CLOSE",
    [7] = "ABORT",
    [16] = "UNKNOWN",
    [17] = "STALE",
    [18] = "CANCEL",
    [32] = "CHECK_IN",
    [33] = "CONTROL",
    [34] = "NOTIFY",
    [35] = "EVENT",
    [36] = "LOG",
    [37] = "COUNTERS",
    [38] = "SEND",
    [39] = "CALL",
    [40] = "RESOLVE",
    [41] = "REGISTRY",
    [42] = "NOTICE",
    [43] = "GROUP",
}
local FLAGS = {
    [1] = "MORE",
    [2] = "REQUEST",
    [4] = "ANSWER",
    [8] = "ERROR",
}
local WORDS = {
    [0] = "hello",
    [4294967293] = "go",
    [4294967294] = "hold",
    [4294967295] = "goodbye",
}
-- END TABLES

local K = {} -- kinds by name
for number, name in pairs(KINDS) do
    K[name] = number
end
local REQUEST, ANSWER, ERROR = 2, 4, 8
local RINGS = { [0] = "high", [1] = "normal" }
local STREAM_LAST = 15 -- kinds up to this are records of streams
local HEADER = 8 -- bytes of id and generation

local f = {
    version = ProtoField.uint8("popnet.version", "Version of the pseudo-header"),
    length = ProtoField.uint8("popnet.length", "Length of the pseudo-header"),
    ring = ProtoField.uint8("popnet.ring", "Ring", base.DEC, RINGS),
    kicked = ProtoField.bool("popnet.kicked", "Rang the receiver's doorbell", 8, nil, 0x01),
    awake = ProtoField.bool("popnet.awake", "Receiver was awake", 8, nil, 0x02),
    from = ProtoField.uint16("popnet.from", "Sender"),
    to = ProtoField.uint16("popnet.to", "Receiver"),
    kernel = ProtoField.uint16("popnet.kernel", "Sender or receiver"),
    from_generation = ProtoField.uint32("popnet.from_generation", "Sender's generation"),
    to_generation = ProtoField.uint32("popnet.to_generation", "Receiver's generation"),
    kind = ProtoField.uint16("popnet.kind", "Kind", base.DEC, KINDS),
    flags = ProtoField.uint16("popnet.flags", "Flags", base.HEX),
    channel = ProtoField.uint16("popnet.channel", "Channel"),
    size = ProtoField.uint32("popnet.size", "Bytes of header and body"),
    number = ProtoField.uint64("popnet.number", "Number on its ring"),
    enqueue = ProtoField.absolute_time("popnet.enqueue", "Enqueued"),
    kick = ProtoField.absolute_time("popnet.kick", "Kicked"),
    wake = ProtoField.absolute_time("popnet.wake", "Woken"),
    handle = ProtoField.absolute_time("popnet.handle", "Handled"),
    kick_us = ProtoField.double("popnet.kick_us", "µs from enqueue to kick"),
    wake_us = ProtoField.double("popnet.wake_us", "µs from enqueue to wake"),
    handle_us = ProtoField.double("popnet.handle_us", "µs from enqueue to handle"),
    id = ProtoField.uint32("popnet.id", "Id"),
    stream = ProtoField.uint32("popnet.stream", "Stream"),
    opener = ProtoField.bool("popnet.opener", "Sent by the stream's opener"),
    generation = ProtoField.uint32("popnet.generation", "To generation"),
    credit = ProtoField.uint32("popnet.credit", "Bytes of credit"),
    unknown = ProtoField.uint32("popnet.unknown", "Kind that nobody handles"),
    stale = ProtoField.uint32("popnet.stale", "Generation that runs"),
    port = ProtoField.uint32("popnet.port", "Port of the service"),
    service_version = ProtoField.uint32("popnet.service_version", "Version of the service"),
    service = ProtoField.string("popnet.service", "Service"),
    member = ProtoField.uint32("popnet.member", "Membership of the receiver"),
    group_number = ProtoField.uint32("popnet.group_number", "Number in the group", base.DEC, WORDS),
    group_from = ProtoField.uint32("popnet.group_from", "Membership of the sender"),
    body = ProtoField.bytes("popnet.body", "Body"),
}
popnet.fields = {}
for _, field in pairs(f) do
    table.insert(popnet.fields, field)
end
local BITS = {} -- of FLAGS, in order
for bit, _ in pairs(FLAGS) do
    table.insert(BITS, bit)
end
table.sort(BITS)
for _, bit in ipairs(BITS) do
    local name = FLAGS[bit]
    f["flag" .. bit] = ProtoField.bool("popnet.flags." .. name:lower(), name, 16, nil, bit)
    table.insert(popnet.fields, f["flag" .. bit])
end

local short = ProtoExpert.new("popnet.short", "The message is too short", expert.group.MALFORMED, expert.severity.ERROR)
local foreign = ProtoExpert.new("popnet.foreign", "Not a version that this dissector knows", expert.group.UNDECODED,
    expert.severity.WARN)
popnet.experts = { short, foreign }

local BILLION = UInt64(1000000000)

local function nstime(value)
    return NSTime.new((value / BILLION):tonumber(), (value % BILLION):tonumber())
end

-- Add the four times, and each but the first as µs since the first. Returns the µs to `handle`, or nil.
local function add_times(tree, tvb)
    local enqueue = tvb(32, 8):le_uint64()
    local handled
    for place, name in ipairs({ "enqueue", "kick", "wake", "handle" }) do
        local range = tvb(24 + 8 * place, 8)
        local value = range:le_uint64()
        if value ~= UInt64(0) then
            tree:add(f[name], range, nstime(value))
            if place > 1 and enqueue ~= UInt64(0) then
                local us = (value - enqueue):tonumber() / 1000
                tree:add(f[name .. "_us"], range, us):set_generated()
                if name == "handle" then
                    handled = us
                end
            end
        end
    end
    return handled
end

local function add_tag(tree, range, kind, flags)
    tree:add_le(f.kind, range(0, 2))
    if kind == K.DATA then
        tree:add_le(f.channel, range(2, 2))
        return
    end
    local flag_tree = tree:add_le(f.flags, range(2, 2))
    for _, bit in ipairs(BITS) do
        flag_tree:add_le(f["flag" .. bit], range(2, 2))
    end
end

-- Add the numbers and names that a body of this kind begins with. Returns what is left of it, or nil, and a word for
-- the info column. A later fragment begins with nothing of that, but cannot be told from a first one.
local function add_fields(tree, range, kind, flags)
    local length = range:len()
    local function has(flag)
        return bit.band(flags, flag) ~= 0
    end
    local function numbers(...)
        local fields = { ... }
        for place, field in ipairs(fields) do
            tree:add_le(field, range(4 * place - 4, 4))
        end
        local used = 4 * #fields
        return length > used and range(used, length - used) or nil
    end
    local single = { [K.CREDIT] = f.credit, [K.UNKNOWN] = f.unknown, [K.STALE] = f.stale }
    if single[kind] and length == 4 then
        return numbers(single[kind])
    elseif kind == K.UNKNOWN and length == 8 then
        return numbers(f.unknown, f.port)
    elseif kind == K.CALL and has(REQUEST) and length >= 4 then
        return numbers(f.port)
    elseif kind == K.RESOLVE and has(REQUEST) then
        tree:add(f.service, range)
        return nil
    elseif kind == K.RESOLVE and has(ANSWER) and not has(ERROR) and length == 8 then
        return numbers(f.port, f.service_version)
    elseif kind == K.GROUP and length >= 8 then
        return numbers(f.group_number, f.group_from), WORDS[range(0, 4):le_uint()]
    end
    return range
end

-- Returns a word for the info column, or nil.
local function add_body(tree, whole_range, kind, flags, pinfo, whole)
    if whole_range:len() == 0 then
        return nil
    end
    local range, word = add_fields(tree, whole_range, kind, flags)
    if range == nil then
        return word
    end
    local item = tree:add(f.body, range)
    local bytes = range:bytes()
    local looks_like_json = bytes:get_index(0) == 0x7b and bytes:get_index(bytes:len() - 1) == 0x7d
    if whole and kind ~= K.DATA and looks_like_json then
        Dissector.get("json"):call(range:tvb(), pinfo, item)
    end
    return word
end

function popnet.dissector(tvb, pinfo, root)
    local tree = root:add(popnet, tvb(), "popnet message")
    if tvb:reported_length_remaining() < 2 or tvb:len() < 2 then
        tree:add_proto_expert_info(short)
        return 0
    end
    tree:add(f.version, tvb(0, 1))
    tree:add(f.length, tvb(1, 1))
    local head = tvb(1, 1):uint()
    if tvb(0, 1):uint() ~= 1 or head < 64 then
        tree:add_proto_expert_info(foreign)
        return tvb:len()
    end
    if tvb:len() < head + HEADER then
        tree:add_proto_expert_info(short)
        return tvb:len()
    end
    local ring, from, to = tvb(2, 1):uint(), tvb(4, 2):le_uint(), tvb(6, 2):le_uint()
    local kind, flags, size = tvb(16, 2):le_uint(), tvb(18, 2):le_uint(), tvb(20, 4):le_uint()
    tree:add(f.ring, tvb(2, 1))
    tree:add(f.kicked, tvb(3, 1))
    tree:add(f.awake, tvb(3, 1))
    tree:add_le(f.from, tvb(4, 2))
    tree:add_le(f.to, tvb(6, 2))
    tree:add_le(f.kernel, tvb(4, 2)):set_hidden()
    tree:add_le(f.kernel, tvb(6, 2)):set_hidden()
    tree:add_le(f.from_generation, tvb(8, 4))
    tree:add_le(f.to_generation, tvb(12, 4))
    add_tag(tree, tvb(16, 4), kind, flags)
    tree:add_le(f.size, tvb(20, 4))
    tree:add_le(f.number, tvb(24, 8))
    local handled = add_times(tree, tvb)

    local id = tvb(head, 4):le_uint()
    tree:add_le(f.id, tvb(head, 4))
    if kind <= STREAM_LAST then
        tree:add(f.stream, tvb(head, 4), math.floor(id / 2))
        tree:add(f.opener, tvb(head, 4), id % 2 == 1)
    end
    tree:add_le(f.generation, tvb(head + 4, 4))
    if kind == K.SEND then
        tree:add_le(f.port, tvb(head, 4))
    elseif kind == K.GROUP then
        tree:add_le(f.member, tvb(head, 4))
    end
    local body = tvb:len() - head - HEADER
    local name = KINDS[kind] or ("kind " .. kind)
    pinfo.cols.protocol = "popnet"
    pinfo.cols.src = tostring(from)
    pinfo.cols.dst = tostring(to)
    local took = handled and string.format(", handled after %.1f µs", handled) or ""
    local word
    if body > 0 then
        word = add_body(tree, tvb(head + HEADER, body), kind, flags, pinfo, body + HEADER == size)
    end
    name = word and name .. " " .. word or name
    pinfo.cols.info = string.format("%s, id %d, %d bytes, %s%s", name, id, math.max(size - HEADER, 0),
        RINGS[ring] or ring, took)
    tree:append_text(string.format(", %d to %d, %s", from, to, name))
    return tvb:len()
end

DissectorTable.get("wtap_encap"):add(wtap.USER0, popnet)
