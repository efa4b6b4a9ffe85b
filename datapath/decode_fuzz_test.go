// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"encoding/binary"
	"encoding/json"
	"net/netip"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/bpf"
	"github.com/weirnet/weir/model"
)

func FuzzEvent(f *testing.F) {
	sound := bpf.ContainerEvent{
		Version: 1, Kind: 1, Verdict: uint8(bpf.ContainerVerdictVERDICT_DROP), Reason: 1, Where: 1<<16 | 7, Tables: 0xd, Len: 60,
		Origin: 1, Key: flowKey{Sport: 0x5000, Proto: 6, Family: uint8(bpf.ContainerFamilyFAMILY_IPV4), Hook: 1, Ifindex: 3},
	}
	raw, err := binary.Append(nil, binary.NativeEndian, &sound)
	require.NoError(f, err)
	f.Add(raw)
	raw = make([]byte, unsafe.Sizeof(sound))
	f.Add(raw)
	for i := range raw {
		raw[i] = 0xff
	}
	f.Add(raw)
	obj, err := readObjects(&Options{})
	require.NoError(f, err)
	names, err := readNames(obj.container.Types)
	require.NoError(f, err)
	d := &Datapath{names: names, labels: newLabels()}
	f.Fuzz(func(t *testing.T, data []byte) {
		var raw bpf.ContainerEvent
		if n, err := binary.Decode(data, binary.NativeEndian, &raw); err != nil {
			require.Less(t, len(data), int(unsafe.Sizeof(raw)))
			require.Zero(t, n)
			return
		}
		e := d.event(&raw, &d.labels)
		require.Equal(t, int(raw.Len), e.Length)
		require.Equal(t, time.Duration(raw.Time), e.Time)
		require.Equal(t, model.Protocol(raw.Key.Proto), e.Tuple.Protocol)
		require.NotEmpty(t, e.Tuple.String())
		require.Less(t, e.Decision.Line, 1<<16)
	})
}

func FuzzFlow(f *testing.F) {
	add := func(key flowKey, value flowValue) {
		k, err := binary.Append(nil, binary.NativeEndian, &key)
		require.NoError(f, err)
		v, err := binary.Append(nil, binary.NativeEndian, &value)
		require.NoError(f, err)
		f.Add(k, v, uint64(1e12))
	}
	add(flowKey{Proto: 6, Hook: 1, Ifindex: 3}, flowValue{LastSeen: 1e9, Flags: 1, Seen: 0x12, OtherHook: 2, OtherIfindex: 4})
	add(flowKey{Proto: 17, Hook: 2}, flowValue{LastSeen: 1 << 63, Flags: 0xff, Seen: 0xff})
	l := newLabels()
	f.Fuzz(func(t *testing.T, key, value []byte, now uint64) {
		var e entry
		if _, err := binary.Decode(key, binary.NativeEndian, &e.key); err != nil {
			return
		}
		if _, err := binary.Decode(value, binary.NativeEndian, &e.value); err != nil {
			return
		}
		flow := l.flow(&e, nil, now)
		require.NotEmpty(t, flow.State)
		require.Positive(t, timeoutOf(nil, e.key.Proto, flow.State))
		require.Equal(t, now > e.value.LastSeen, flow.Idle != 0)
		back := entry{key: e.other(), value: e.value}
		require.Equal(t, e.key.Proto, back.key.Proto)
		require.Equal(t, flow.State, l.flow(&e, nil, now+1).State, "time alone changes no state")
	})
}

func FuzzAddress(f *testing.F) {
	f.Add(netip.MustParseAddr("10.0.0.1").AsSlice())
	f.Add(netip.MustParseAddr("fd00::1").AsSlice())
	f.Add(netip.MustParseAddr("::").AsSlice())
	f.Fuzz(func(t *testing.T, data []byte) {
		addr, ok := netip.AddrFromSlice(data)
		if !ok || addr.Is4In6() || addr == netip.IPv6Unspecified() {
			return // :: is none, and IPv4 is written as IPv6 writes it
		}
		require.Equal(t, addr, decodeAddr(encodeAddr(addr)))
	})
}

func FuzzLabels(f *testing.F) {
	l := newLabels()
	l.number(model.Origin{Policy: model.PolicyRef{Kind: "NetworkPolicy", Namespace: "default", Name: "web"}, Rule: 1})
	l.Endpoints[3] = model.Key{Namespace: "default", Name: "web"}
	l.Services[1] = ServiceName{Name: model.PortRef{Namespace: "default", Name: "web", Port: "80"}}
	text, err := json.Marshal(&l)
	require.NoError(f, err)
	f.Add(text)
	f.Add([]byte(`{"origins":[{}],"endpoints":null,"services":null}`))
	f.Add([]byte(`{"origins":[{}]}{"services":{"7":{"name":{"Name":"b"}}},"origins":[{"Rule":3}]}{"endpoints":{"4":`))
	f.Add([]byte(`null`))
	f.Add([]byte(`{"origins":[{"Policy":"a"},{"Policy":"a"},{"Policy":"a"}]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		l := parseLabels(text)
		next := newStateNames("node")
		next.Endpoints[1], next.Services[1] = model.Key{Namespace: "default", Name: "a"}, ServiceName{Name: model.PortRef{Namespace: "default", Name: "a", Port: "1"}}
		both := l.with(next)
		require.Equal(t, "default/a", both.Endpoints[1].String())
		origin := model.Origin{Policy: model.PolicyRef{Kind: "NetworkPolicy", Namespace: "default", Name: "other"}, Rule: 2}
		require.Equal(t, origin, l.origin(l.number(origin)))
		require.NotZero(t, l.number(origin), "0 is no rule")
		require.Empty(t, l.origin(0))
		require.Empty(t, l.policy(0))
	})
}

func FuzzVerifierStats(f *testing.F) {
	f.Add("verification time 1034 usec\nstack depth 64+0\nprocessed 3210 insns (limit 1000000) max_states_per_insn 4\n")
	f.Add("processed 1 insns ")
	f.Add("verification time 99999999999999999999 usec\nprocessed 1 insns \n")
	f.Fuzz(func(t *testing.T, log string) {
		cost, err := readVerifierStats(log)
		if err != nil {
			require.ErrorIs(t, err, errNoStats)
			return
		}
		require.GreaterOrEqual(t, cost.Verified, 0)
	})
}
