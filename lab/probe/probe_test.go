// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/weirnet/weir/lab"
	"github.com/weirnet/weir/lab/frame"
	"github.com/weirnet/weir/model"
)

const token = "sesame"

// agents serves agents on loopback, and gives a way to make clients of them.
func agents(t *testing.T) func(token string) *Client {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, listener, token) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-done)
	})
	return func(token string) *Client {
		stream, err := net.Dial("tcp", listener.Addr().String())
		require.NoError(t, err)
		c := NewClient(stream, token)
		t.Cleanup(func() { c.Close() })
		return c
	}
}

var (
	loopback4 = netip.MustParseAddr("127.0.0.1")
	loopback6 = netip.MustParseAddr("::1")
)

// free is a port that nobody has.
func free(t *testing.T) uint16 {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	return plain(l.Addr()).Port()
}

func within(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func TestBothEndsOfAConversationAreKnown(t *testing.T) {
	connect := agents(t)
	for name, at := range map[string]netip.Addr{"IPv4": loopback4, "IPv6": loopback6} {
		for _, protocol := range []model.Protocol{model.ProtocolTCP, model.ProtocolUDP} {
			t.Run(protocol.String()+" over "+name, func(t *testing.T) {
				ctx, port := within(t, time.Minute), free(t)
				server, client := connect(token), connect(token)
				require.NoError(t, server.Listen(ctx, Listen{Name: "web", Protocol: protocol, Port: port, Addresses: []netip.Addr{at}}))
				c, err := client.Dial(ctx, Dial{Protocol: protocol, To: netip.AddrPortFrom(at, port)})
				require.NoError(t, err)
				answer, err := c.Exchange(ctx, []byte("hello"))
				require.NoError(t, err)
				require.Equal(t, "hello", string(answer))
				require.Equal(t, "web", c.Server())
				require.Equal(t, netip.AddrPortFrom(at, port), c.Remote())
				require.Equal(t, c.Local(), c.Peer(), "nobody is between them")
				require.NoError(t, c.Close())
				_, err = c.Exchange(ctx, []byte("more"))
				require.ErrorContains(t, err, "is not open here")
			})
		}
	}
}

func TestTCPTellsTheServerBeforeAnythingIsSaid(t *testing.T) {
	connect := agents(t)
	ctx, port := within(t, time.Minute), free(t)
	c := connect(token)
	fixed := "welcome"
	require.NoError(t, c.Listen(ctx, Listen{Name: "web", Protocol: model.ProtocolTCP, Port: port, Addresses: []netip.Addr{loopback4}, Answer: &fixed}))
	dialled, err := c.Dial(ctx, Dial{Protocol: model.ProtocolTCP, To: netip.AddrPortFrom(loopback4, port)})
	require.NoError(t, err)
	require.Equal(t, "web", dialled.Server())
	answer, err := dialled.Exchange(ctx, []byte("hello"))
	require.NoError(t, err)
	require.Equal(t, fixed, string(answer))
}

func TestAPortIsDialledFromAgainAtOnce(t *testing.T) {
	connect := agents(t)
	ctx, port, from := within(t, time.Minute), free(t), free(t)
	c := connect(token)
	require.NoError(t, c.Listen(ctx, Listen{Name: "web", Protocol: model.ProtocolTCP, Port: port, Addresses: []netip.Addr{loopback4}}))
	for range 3 {
		dialled, err := c.Dial(ctx, Dial{Protocol: model.ProtocolTCP, Sport: from, To: netip.AddrPortFrom(loopback4, port)})
		require.NoError(t, err)
		require.Equal(t, from, dialled.Local().Port())
		require.NoError(t, dialled.Close())
	}
}

func TestFailuresHaveTheLabsWords(t *testing.T) {
	connect := agents(t)
	ctx, port := within(t, time.Minute), free(t)
	c := connect(token)
	nobody := netip.AddrPortFrom(loopback4, port)
	_, err := c.Dial(ctx, Dial{Protocol: model.ProtocolTCP, To: nobody})
	require.ErrorIs(t, err, lab.ErrRefused)

	u, err := c.Dial(ctx, Dial{Protocol: model.ProtocolUDP, To: nobody})
	require.NoError(t, err, "a socket of datagrams hears of nothing before it sends")
	_, err = u.Exchange(ctx, []byte("hello"))
	require.ErrorIs(t, err, lab.ErrRefused)

	silence := ""
	require.NoError(t, c.Listen(ctx, Listen{Name: "mute", Protocol: model.ProtocolUDP, Port: port, Addresses: []netip.Addr{loopback4}, Answer: &silence}))
	u, err = c.Dial(ctx, Dial{Protocol: model.ProtocolUDP, To: nobody})
	require.NoError(t, err)
	_, err = u.Exchange(within(t, 50*time.Millisecond), []byte("hello"))
	require.ErrorIs(t, err, lab.ErrTimeout)
	require.NoError(t, c.Ping(ctx, loopback4))
	require.NoError(t, c.Ping(ctx, loopback6))
}

// A late answer is of the message before, and not of the next one.
func TestAnAnswerIsOfItsMessage(t *testing.T) {
	connect := agents(t)
	ctx := within(t, time.Minute)
	late, err := net.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(t, err)
	defer late.Close()
	var came atomic.Bool
	go func() { // answers what came before only when the second message has come
		var froms []net.Addr
		var bodies [][]byte
		buffer := make([]byte, 2048)
		for m := (said{}); string(m.Text) != "second"; {
			n, from, err := late.ReadFrom(buffer)
			if err != nil || json.Unmarshal(buffer[:n], &m) != nil {
				return
			}
			froms, bodies = append(froms, from), append(bodies, append([]byte(nil), buffer[:n]...))
			came.Store(true)
		}
		for i := range bodies {
			late.WriteTo(bodies[i], froms[i])
		}
	}()
	c := connect(token)
	u, err := c.Dial(ctx, Dial{Protocol: model.ProtocolUDP, To: plain(late.LocalAddr())})
	require.NoError(t, err)
	for !came.Load() { // time may be up before anything is sent
		_, err = u.Exchange(within(t, 50*time.Millisecond), []byte("first"))
		require.ErrorIs(t, err, lab.ErrTimeout)
	}
	answer, err := u.Exchange(ctx, []byte("second"))
	require.NoError(t, err)
	require.Equal(t, "second", string(answer))
}

func TestWhatWasOpenedGoesWithItsStream(t *testing.T) {
	connect := agents(t)
	ctx, port := within(t, time.Minute), free(t)
	listen := Listen{Name: "web", Protocol: model.ProtocolTCP, Port: port, Addresses: []netip.Addr{loopback4}}
	first, second := connect(token), connect(token)
	require.NoError(t, first.Listen(ctx, listen))
	require.ErrorContains(t, second.Listen(ctx, listen), "address already in use")
	require.NoError(t, first.Forget(ctx))
	require.NoError(t, second.Listen(ctx, listen))
	require.NoError(t, second.Close())
	_, err := second.Dial(ctx, Dial{Protocol: model.ProtocolTCP, To: netip.AddrPortFrom(loopback4, port)})
	require.ErrorIs(t, err, ErrGone)
	require.Eventually(t, func() bool { return first.Listen(ctx, listen) == nil }, time.Minute, time.Millisecond)
}

func TestWithoutTheTokenNothingIsDone(t *testing.T) {
	connect := agents(t)
	require.ErrorIs(t, connect("guess").Welcome(within(t, time.Minute)), ErrGone)
	require.NoError(t, connect(token).Welcome(within(t, time.Minute)))
}

// conversation is one between two agents of a test.
func conversation(t *testing.T, protocol model.Protocol) *Conn {
	connect := agents(t)
	ctx, port := within(t, time.Minute), free(t)
	server, client := connect(token), connect(token)
	require.NoError(t, server.Listen(ctx, Listen{Name: "web", Protocol: protocol, Port: port, Addresses: []netip.Addr{loopback4}}))
	c, err := client.Dial(ctx, Dial{Protocol: protocol, To: netip.AddrPortFrom(loopback4, port)})
	require.NoError(t, err)
	return c
}

func TestOctetsAreCarriedBothWays(t *testing.T) {
	c, ctx := conversation(t, model.ProtocolTCP), within(t, time.Minute)
	for _, size := range [][2]uint64{{3 << 20, 0}, {0, 1<<20 + 7}, {1, 65 << 10}} {
		_, _, err := c.Carry(ctx, size[0], size[1])
		require.NoError(t, err)
		answer, err := c.Exchange(ctx, []byte("hello"))
		require.NoError(t, err, "messages go on behind raw octets")
		require.Equal(t, "hello", string(answer))
	}
	times, err := c.Rounds(ctx, 10)
	require.NoError(t, err)
	require.Len(t, times, 10)
	require.LessOrEqual(t, times[0], times[9])
	require.ErrorContains(t, c.Fill(ctx, 1000), "only a datagram")
}

func TestOctetsThatAreOthersHaveAnotherSum(t *testing.T) {
	other := append(append([]byte(nil), block[:999]...), block[999]^1)
	sum, err := drain(bytes.NewReader(other), 1000)
	require.NoError(t, err)
	require.NotEqual(t, sumOf(1000), sum)
	_, err = drain(bytes.NewReader(other), 1001)
	require.ErrorIs(t, err, io.EOF)
}

func TestADatagramIsAsLongAsItIsToBe(t *testing.T) {
	ctx := within(t, time.Minute)
	far, err := net.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(t, err)
	defer far.Close()
	lengths := make(chan int, 1)
	go func() {
		buffer := make([]byte, 64<<10)
		n, from, err := far.ReadFrom(buffer)
		if err == nil {
			lengths <- n
			far.WriteTo(buffer[:n], from)
		}
	}()
	c, err := agents(t)(token).Dial(ctx, Dial{Protocol: model.ProtocolUDP, To: plain(far.LocalAddr())})
	require.NoError(t, err)
	require.Positive(t, c.MTU())
	require.NoError(t, c.Fill(ctx, 1472))
	require.Equal(t, 1472, <-lengths)

	c = conversation(t, model.ProtocolUDP)
	require.NoError(t, c.Fill(ctx, 9000))
	require.Equal(t, "web", c.Server())
	require.Equal(t, c.Local(), c.Peer())
	_, _, err = c.Carry(ctx, 1, 1)
	require.ErrorContains(t, err, "only a TCP connection")
}

func TestANameIsLookedUp(t *testing.T) {
	c, ctx := agents(t)(token), within(t, time.Minute)
	got, err := c.Lookup(ctx, Lookup{Name: "127.0.0.1"})
	require.NoError(t, err)
	require.Equal(t, []netip.Addr{loopback4}, got)
	require.NoError(t, c.PingOf(ctx, loopback4, 8000))
}

func TestWhatAHostSendsAndGetsIsCaptured(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("needs root: it opens packet sockets")
	}
	connect := agents(t)
	ctx, port, other := within(t, time.Minute), free(t), free(t)
	server, client := connect(token), connect(token)
	for _, p := range []uint16{port, other} {
		require.NoError(t, server.Listen(ctx, Listen{Name: "web", Protocol: model.ProtocolTCP, Port: p, Addresses: []netip.Addr{loopback4}}))
	}
	end, err := client.Capture(ctx, Capture{Addresses: []netip.Addr{loopback4}, Ports: []uint16{port}})
	require.NoError(t, err)
	for _, p := range []uint16{other, port} {
		c, err := client.Dial(ctx, Dial{Protocol: model.ProtocolTCP, To: netip.AddrPortFrom(loopback4, p)})
		require.NoError(t, err)
		require.NoError(t, c.Close())
	}
	frames, err := end(ctx)
	require.NoError(t, err)
	require.NotEmpty(t, frames)
	require.LessOrEqual(t, len(frames), maxCaptured)
	for _, f := range frames {
		tuple, ok := frame.Decode(f.Data).Tuple()
		require.True(t, ok)
		require.Contains(t, []uint16{tuple.Sport, tuple.Dport}, port, "nobody asked for other ports")
		require.Equal(t, "lo", f.Interface)
	}
	_, err = end(ctx)
	require.ErrorContains(t, err, "there is no capture")
}
