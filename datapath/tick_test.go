// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"encoding/binary"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/model"
)

// back sets a stopped clock back by a tick, as a packet sees it whose CPU is a
// tick behind that of the packet before. Nothing else sets a clock back.
func back(t *testing.T, d *Datapath) {
	t.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	d.settings.ClockOffset -= uint64(4 * time.Millisecond)
	require.NoError(t, d.writeSettings())
}

func stopped() Options {
	opts := small()
	opts.StopClock = true
	return opts
}

// fragmentFrame is a part of a TCP segment: 24 octets of it, from an offset in
// units of 8 on.
func fragmentFrame(t *testing.T, offset uint16, more bool) []byte {
	t.Helper()
	const ipv4, length, fragment = 14, 2, 6
	frame := append(tcpFrame(t, "10.0.0.1", "10.0.0.2", 40000, 8080, syn), 0, 0, 0, 0)
	binary.BigEndian.PutUint16(frame[ipv4+length:], uint16(len(frame)-ipv4))
	if more {
		offset |= 1 << 13
	}
	binary.BigEndian.PutUint16(frame[ipv4+fragment:], offset)
	return frame
}

func TestALaterFragmentIsNotTooLateWhereClocksDifferByATick(t *testing.T) {
	n := newNode(t)
	d := openDatapath(t, stopped())
	_, err := d.Apply(n.state.Clone())
	require.NoError(t, err)
	require.NoError(t, d.Advance(time.Second))
	run(t, d, n.client, fragmentFrame(t, 0, true), model.Forward)
	back(t, d)
	run(t, d, n.client, fragmentFrame(t, 3, false), model.Forward)
}

func TestAClientStaysWithItsBackendWhereClocksDifferByATick(t *testing.T) {
	n := newNode(t)
	d := openDatapath(t, stopped())
	state := newState(n.client, n.web)
	for i := range state.Services.Len() {
		state.Services.At(i).Affinity = 30 * time.Second
		for port := range uint16(16) {
			state.Services.At(i).Backends = append(state.Services.At(i).Backends, model.Backend{Address: state.Services.At(i).Backends[0].Address, Port: 9000 + port})
		}
	}
	_, err := d.Apply(state.Clone())
	require.NoError(t, err)
	require.NoError(t, d.Advance(time.Second))
	chosen := map[string]bool{}
	for i := range uint16(20) {
		ran := run(t, d, n.client, tcpFrame(t, "10.0.0.1", "10.96.0.1", 40000+i, 80, syn), model.Forward)
		chosen[fmt.Sprint(ran.Data[36:38])] = true
		back(t, d)
	}
	require.Len(t, chosen, 1, "one backend for all flows of the client")
}
