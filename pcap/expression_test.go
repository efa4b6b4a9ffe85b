// SPDX-License-Identifier: Apache-2.0

package pcap

import (
	"bytes"
	"context"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// needTcpdump fails where nobody could compile an expression.
func needTcpdump(t testing.TB) {
	t.Helper()
	_, err := exec.LookPath("tcpdump")
	require.NoError(t, err, "run: apt-get install tcpdump")
}

// tcpOf is an Ethernet frame of IPv4 and TCP.
func tcpOf(dport uint16, flags byte, payload int) []byte {
	b := make([]byte, 54+payload)
	binary.BigEndian.PutUint16(b[12:], 0x0800)
	b[14], b[23] = 0x45, 6
	binary.BigEndian.PutUint16(b[16:], uint16(40+payload))
	copy(b[26:], []byte{10, 0, 0, 1, 10, 0, 0, 2})
	binary.BigEndian.PutUint16(b[34:], 1000)
	binary.BigEndian.PutUint16(b[36:], dport)
	b[46], b[47] = 0x50, flags
	return b
}

// What tcpdump -ddd prints for "tcp dst port 80".
const port80 = "15\n40 0 0 12\n21 0 4 34525\n48 0 0 20\n21 0 10 6\n40 0 0 56\n21 7 8 80\n21 0 7 2048\n48 0 0 23\n21 0 5 6\n" +
	"40 0 0 20\n69 3 0 8191\n177 0 0 14\n72 0 0 16\n21 0 1 80\n6 0 0 262144\n6 0 0 0\n"

func TestAProgramIsRunAsItIsMeant(t *testing.T) {
	p, err := readProgram("16" + port80[2:])
	require.NoError(t, err)
	require.NotZero(t, p.run(tcpOf(80, 2, 0), 54))
	require.Zero(t, p.run(tcpOf(81, 2, 0), 54))
	require.Zero(t, p.run(tcpOf(80, 2, 0)[:36], 54), "what is cut off is not there")
	length := program{{0x80, 0, 0, 0}, {0x25, 0, 1, 100}, {6, 0, 0, 1}, {6, 0, 0, 0}}
	require.NoError(t, length.check())
	require.EqualValues(t, 1, length.run(make([]byte, 60), 101), "its length is that on the wire")
	require.Zero(t, length.run(make([]byte, 60), 100))
}

func TestAProgramThatIsNoneIsRefused(t *testing.T) {
	for _, text := range []string{"", "x", "2\n6 0 0 0\n", "1\n6 0 0\n", "1\n40 0 0 12\n", "2\n21 1 0 5\n6 0 0 0\n", "2\n2 0 0 16\n6 0 0 0\n", port80} {
		_, err := readProgram(text)
		require.Error(t, err, "%q", text)
	}
}

func TestAnExpressionMeansWhatItMeansToTcpdump(t *testing.T) {
	needTcpdump(t)
	packets := [][]byte{tcpOf(80, 2, 0), tcpOf(80, 16, 100), tcpOf(22, 2, 0), tcpOf(443, 1, 1400), tcpOf(80, 2, 0)[:40]}
	path := filepath.Join(t.TempDir(), "some.pcap")
	require.NoError(t, os.WriteFile(path, classicOf(packets...), 0o600))
	for _, text := range []string{
		"tcp", "port 80", "not port 22", "tcp[13] & 2 != 0", "tcp[tcpflags] & (tcp-syn|tcp-fin) != 0", "greater 150", "less 60",
		"portrange 1-100", "net 10.0.0.0/8 and dst port 443", "ip[2:2] > 100", "udp or arp", "ip6", "len % 2 == 0",
	} {
		require.Equal(t, tcpdumpMeans(t, path, text), weirMeans(t, path, text), text)
	}
}

// tcpdumpMeans gives the packets that tcpdump writes.
func tcpdumpMeans(t *testing.T, path, text string) [][]byte {
	t.Helper()
	out, err := exec.Command("tcpdump", "-r", path, "-w", "-", "--", text).Output()
	require.NoError(t, err)
	return packetsOf(t, out, func(LinkType, []byte, int) bool { return true })
}

func weirMeans(t *testing.T, path, text string) [][]byte {
	t.Helper()
	e, err := Compile(context.Background(), text)
	require.NoError(t, err)
	file, err := os.ReadFile(path)
	require.NoError(t, err)
	return packetsOf(t, file, func(link LinkType, data []byte, length int) bool {
		is, err := e.Match(context.Background(), link, data, length)
		require.NoError(t, err)
		return is
	})
}

func packetsOf(t *testing.T, file []byte, is func(LinkType, []byte, int) bool) (found [][]byte) {
	t.Helper()
	r, err := NewReader(bytes.NewReader(file))
	require.NoError(t, err)
	var p Packet
	for r.Next(&p) == nil {
		if is(r.Interface(p.Interface).Link, p.Data, p.Length) {
			found = append(found, bytes.Clone(p.Data))
		}
	}
	return found
}

// classicOf is a pcap file of Ethernet packets, each as long as its IPv4 header
// says.
func classicOf(packets ...[]byte) []byte {
	b := emptyCapture(LinkEthernet)
	for _, p := range packets {
		b = append(b, make([]byte, 8)...)
		b = binary.LittleEndian.AppendUint32(b, uint32(len(p)))
		b = binary.LittleEndian.AppendUint32(b, uint32(14+int(binary.BigEndian.Uint16(p[16:]))))
		b = append(b, p...)
	}
	return b
}

func TestWhatIsNoExpressionIsToldAsTcpdumpTellsIt(t *testing.T) {
	needTcpdump(t)
	_, err := Compile(context.Background(), "tcp prt 80")
	require.ErrorIs(t, err, ErrExpression)
	require.ErrorContains(t, err, "syntax error")
	_, err = Compile(context.Background(), "-w /tmp/never")
	require.ErrorIs(t, err, ErrExpression, "it is no option")
}

func TestWithoutTcpdumpThereIsNoExpression(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	_, err := Compile(context.Background(), "tcp")
	require.ErrorIs(t, err, ErrNoCompiler)
}

// FuzzProgram: what is taken for a program ends, and touches nothing else.
func FuzzProgram(f *testing.F) {
	f.Add("16"+port80[2:], tcpOf(80, 2, 0))
	f.Add("4\n128 0 0 0\n37 0 1 100\n6 0 0 1\n6 0 0 0\n", []byte{1})
	f.Add("5\n1 0 0 7\n3 0 0 15\n96 0 0 15\n60 0 0 0\n22 0 0 0\n", []byte{})
	f.Fuzz(func(t *testing.T, text string, packet []byte) {
		p, err := readProgram(text)
		if err != nil {
			return
		}
		require.Equal(t, p.run(packet, len(packet)), p.run(packet, len(packet)))
	})
}
