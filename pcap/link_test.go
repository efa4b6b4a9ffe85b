// SPDX-License-Identifier: Apache-2.0

package pcap

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestEveryLinkTypeBecomesAnEthernetFrame(t *testing.T) {
	v4, v6 := []byte("\x45 an IPv4 packet"), []byte("\x60 an IPv6 packet")
	join := func(parts ...string) []byte {
		var b []byte
		for _, p := range parts {
			b = append(b, p...)
		}
		return b
	}
	cooked := "\x00\x00\x00\x01\x00\x06\xaa\xbb\xcc\xdd\xee\xff\x00\x00"
	cooked2 := "\x00\x00\x00\x00\x00\x02\x00\x01\x00\x06\xaa\xbb\xcc\xdd\xee\xff\x00\x00"
	for name, c := range map[string]struct {
		link    LinkType
		data    []byte
		ether   string // type, and the payload
		payload []byte
		added   int
	}{
		"Ethernet":                        {LinkEthernet, join("\x01\x02\x03\x04\x05\x06\x01\x02\x03\x04\x05\x07\x08\x06", "arp"), "\x08\x06", []byte("arp"), 0},
		"raw IP with IPv4":                {LinkRaw, v4, "\x08\x00", v4, 14},
		"raw IP with IPv6":                {LinkRaw, v6, "\x86\xdd", v6, 14},
		"raw IP numbered 12":              {LinkRaw12, v4, "\x08\x00", v4, 14},
		"raw IP numbered 14":              {LinkRaw14, v6, "\x86\xdd", v6, 14},
		"IPv4":                            {LinkIPv4, v4, "\x08\x00", v4, 14},
		"IPv6":                            {LinkIPv6, v6, "\x86\xdd", v6, 14},
		"loopback of a little-endian BSD": {LinkNull, join("\x02\x00\x00\x00", string(v4)), "\x08\x00", v4, 10},
		"loopback of a big-endian BSD":    {LinkNull, join("\x00\x00\x00\x02", string(v4)), "\x08\x00", v4, 10},
		"loopback of Darwin with IPv6":    {LinkNull, join("\x1e\x00\x00\x00", string(v6)), "\x86\xdd", v6, 10},
		"loopback of FreeBSD with IPv6":   {LinkNull, join("\x00\x00\x00\x1c", string(v6)), "\x86\xdd", v6, 10},
		"loopback of OpenBSD":             {LinkLoop, join("\x00\x00\x00\x18", string(v6)), "\x86\xdd", v6, 10},
		"Linux cooked":                    {LinkLinuxCooked, join(cooked, "\x08\x00", string(v4)), "\x08\x00", v4, -2},
		"Linux cooked with LLC":           {LinkLinuxCooked, join(cooked, "\x00\x04", "llc"), "\x00\x03", []byte("llc"), -2},
		"Linux cooked, version 2":         {LinkLinuxCooked2, join("\x86\xdd", cooked2, string(v6)), "\x86\xdd", v6, -6},
	} {
		frame, added, err := c.link.Frame(make([]byte, 0, 4), c.data)
		require.NoError(t, err, name)
		require.True(t, c.link.Readable(), name)
		require.Equal(t, c.added, added, name)
		require.Len(t, frame, len(c.data)+added, name)
		require.Equal(t, c.ether, string(frame[12:14]), name)
		require.Equal(t, string(c.payload), string(frame[14:]), name)
		if c.link == LinkLinuxCooked || c.link == LinkLinuxCooked2 {
			require.Equal(t, "\xaa\xbb\xcc\xdd\xee\xff", string(frame[6:12]), name)
		}
	}
}

func TestWhatIsNoFrameIsRefusedInASentence(t *testing.T) {
	for name, c := range map[string]struct {
		link LinkType
		data string
		says string
	}{
		"Wi-Fi":                    {127, "", "IEEE802_11_RADIOTAP (127)"},
		"a link type of nobody":    {9999, "", "unknown (9999)"},
		"a short Ethernet frame":   {LinkEthernet, "thirteen byte", "link layer's header"},
		"nothing":                  {LinkRaw, "", "link layer's header"},
		"raw IP of version 5":      {LinkRaw, "\x50", "neither IPv4 nor IPv6"},
		"loopback of AppleTalk":    {LinkNull, "\x10\x00\x00\x00", "address family"},
		"half a cooked header":     {LinkLinuxCooked, "\x00\x00", "link layer's header"},
		"half a new cooked header": {LinkLinuxCooked2, "\x00\x00", "link layer's header"},
		"netlink":                  {LinkLinuxCooked, "\x00\x00\x03\x38\x00\x00........\x00\x00", "netlink"},
		"cooked Wi-Fi":             {LinkLinuxCooked, "\x00\x00\x03\x23\x00\x00........\x00\x19", "802.11"},
		"cooked CAN":               {LinkLinuxCooked, "\x00\x00\x01\x18\x00\x00........\x00\x0c", "no Ethernet type"},
	} {
		_, _, err := c.link.Frame(nil, []byte(c.data))
		var not NotFrame
		require.ErrorAs(t, err, &not, name)
		require.ErrorContains(t, err, c.says, name)
	}
}

func FuzzFrame(f *testing.F) {
	f.Add(uint16(LinkNull), []byte("\x02\x00\x00\x00\x45"))
	f.Add(uint16(LinkRaw), []byte("\x60"))
	f.Add(uint16(LinkLinuxCooked), []byte("\x00\x00\x00\x01\x00\x06......\x00\x00\x08\x00\x45"))
	f.Add(uint16(LinkLinuxCooked2), []byte("\x86\xdd\x00\x00\x00\x00\x00\x02\x00\x01\x00\x06......\x00\x00\x60"))
	f.Fuzz(func(t *testing.T, link uint16, data []byte) {
		frame, added, err := LinkType(link).Frame(nil, data)
		if err != nil {
			require.NotEmpty(t, err.Error())
			return
		}
		require.GreaterOrEqual(t, len(frame), 14)
		require.Len(t, frame, len(data)+added)
	})
}
