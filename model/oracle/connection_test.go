// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/model"
)

// packet is one of the opener, or of the other side.
type packet struct {
	reply bool
	flags tcpFlags
}

func TestAConnectionLastsByItsState(t *testing.T) {
	const opener, other = false, true
	open := []packet{{opener, flagSYN}, {other, flagSYN | flagACK}, {opener, flagACK}}
	behind := func(before []packet, after ...packet) []packet {
		return append(before[:len(before):len(before)], after...)
	}
	tests := []struct {
		name     string
		protocol model.Protocol
		packets  []packet
		want     states
		lasts    time.Duration
	}{
		{"a SYN", model.ProtocolTCP, open[:1], opening, 60 * time.Second},
		{"both SYNs", model.ProtocolTCP, open[:2], accepted, 60 * time.Second},
		{"a SYN and an answer without one", model.ProtocolTCP, behind(open[:1], packet{other, flagACK}), challenged, 60 * time.Second},
		{"established", model.ProtocolTCP, open, established, 6 * time.Hour},
		{"found in the middle", model.ProtocolTCP, []packet{{opener, flagACK}}, joined, 60 * time.Second},
		{"found in the middle, and answered", model.ProtocolTCP, []packet{{opener, flagACK}, {other, flagACK}}, established, 6 * time.Hour},
		{"a FIN of the opener", model.ProtocolTCP, behind(open, packet{opener, flagFIN | flagACK}), left, 240 * time.Second},
		{"a FIN of the other side", model.ProtocolTCP, behind(open, packet{other, flagFIN | flagACK}), parted, 240 * time.Second},
		{"both FINs", model.ProtocolTCP, behind(open, packet{other, flagFIN}, packet{opener, flagFIN}), closing, 60 * time.Second},
		{"a reset", model.ProtocolTCP, behind(open, packet{opener, flagRST}), reset, 10 * time.Second},
		{"a reset that nothing undoes", model.ProtocolTCP, behind(open, packet{other, flagRST}, packet{opener, flagACK}, packet{other, flagFIN}), reset, 10 * time.Second},
		{"a FIN that nobody answers", model.ProtocolTCP, []packet{{opener, flagFIN}}, quit, 60 * time.Second},
		{"a FIN that is answered", model.ProtocolTCP, []packet{{opener, flagFIN}, {other, flagACK}}, left, 240 * time.Second},
		{"a reset behind a SYN", model.ProtocolTCP, behind(open[:1], packet{opener, flagRST}), aborted, 60 * time.Second},
		{"a question", model.ProtocolUDP, []packet{{}}, asking, 30 * time.Second},
		{"an answer", model.ProtocolUDP, []packet{{}, {reply: true}}, talking, 180 * time.Second},
		{"an echo request", model.ProtocolICMP, []packet{{}}, asking, 30 * time.Second},
		{"an echo reply", model.ProtocolICMPv6, []packet{{}, {reply: true}}, talking, 30 * time.Second},
		{"another protocol", model.ProtocolSCTP, []packet{{}}, asking, 60 * time.Second},
		{"another protocol, both ways", model.ProtocolSCTP, []packet{{}, {reply: true}}, talking, 600 * time.Second},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			begin := time.Unix(1_000_000, 0)
			var l life
			l.see(began(tt.protocol, tt.packets[0].flags), begin)
			for _, p := range tt.packets[1:] {
				l.see(l.states.after(p.flags, p.reply), begin)
			}
			require.Equal(t, tt.want, l.states)
			require.Equal(t, must, l.ought(tt.protocol, begin.Add(tt.lasts-endsEarly)))
			require.Equal(t, may, l.ought(tt.protocol, begin.Add(tt.lasts)), "the clocks may differ")
			require.False(t, l.over(tt.protocol, begin.Add(tt.lasts+endsLate)))
			late := begin.Add(tt.lasts + endsLate + 1)
			require.True(t, l.over(tt.protocol, late))
			left := may // until the collector comes
			if tt.want&unanswered != 0 {
				left = mustNot
			}
			require.Equal(t, left, l.ought(tt.protocol, late))
		})
	}
}

func TestAPacketThatMayHaveBeenMetLeavesBothStates(t *testing.T) {
	begin := time.Unix(1_000_000, 0)
	var l life
	l.see(established, begin)
	l.maySee(l.states.after(flagRST, true), begin.Add(5*time.Second))
	require.Equal(t, established|reset, l.states)
	require.Equal(t, must, l.ought(model.ProtocolTCP, begin.Add(8*time.Second)))
	require.Equal(t, may, l.ought(model.ProtocolTCP, begin.Add(9*time.Second)))
	require.False(t, l.over(model.ProtocolTCP, begin.Add(6*time.Hour)))

	l.see(l.states.after(flagACK, false), begin.Add(6*time.Second))
	require.Equal(t, established|reset, l.states)
	l.see(l.states.after(flagRST, false), begin.Add(7*time.Second))
	require.Equal(t, reset, l.states, "it was reset in any case")
}

// Whatever is seen, a connection is in some state of its protocol, and what has
// ended does not go on as if nothing had happened.
func FuzzConnection(f *testing.F) {
	f.Add([]byte{0x02, 0x92, 0x10, 0x11, 0x91})
	f.Fuzz(func(t *testing.T, packets []byte) {
		now, over := opening, false
		for _, p := range packets {
			flags, reply := tcpFlags(p&0x17), p&0x80 != 0
			over = over || flags&(flagFIN|flagRST) != 0
			now = now.after(flags, reply)
			require.NotZero(t, now)
			require.Zero(t, now&(asking|talking|torn))
			require.Equal(t, over, now&^ended == 0, "%b", now)
			require.Equal(t, over, now&ended != 0, "%b", now)
		}
	})
}
