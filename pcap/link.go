// SPDX-License-Identifier: Apache-2.0

package pcap

import (
	"encoding/binary"
	"fmt"
)

// LinkType is what packets of an interface begin with: a number of
// draft-ietf-opsawg-pcaplinktype.
type LinkType uint16

// Link types that Frame understands.
const (
	LinkNull         LinkType = 0 // BSD loopback, the family in either byte order
	LinkEthernet     LinkType = 1
	LinkRaw12        LinkType = 12 // raw IP, as some systems number it
	LinkRaw14        LinkType = 14
	LinkRaw          LinkType = 101
	LinkLoop         LinkType = 108 // OpenBSD loopback, the family in network order
	LinkLinuxCooked  LinkType = 113
	LinkIPv4         LinkType = 228
	LinkIPv6         LinkType = 229
	LinkLinuxCooked2 LinkType = 276
)

const (
	ethernetLen     = 14
	cookedLen       = 16
	cooked2Len      = 20
	familyLen       = 4
	etherIPv4       = 0x0800
	etherIPv6       = 0x86dd
	firstEtherType  = 0x0600 // IEEE 802.3: below it is a length
	cookedNovell    = 0x0001
	cookedLLC       = 0x0004
	hardwareNetlink = 824 // ARPHRD_NETLINK
	hardware80211   = 801 // ARPHRD_IEEE80211, then with Prism and with radiotap headers
)

// NotFrame is why a packet of a capture has no Ethernet frame, as a sentence
// without its full stop.
type NotFrame string

func (e NotFrame) Error() string { return string(e) }

// What keeps a packet from being a frame.
const (
	errShort   NotFrame = "the capture has less of it than its link layer's header"
	errNeither NotFrame = "it is neither IPv4 nor IPv6"
	errFamily  NotFrame = "its address family is neither IPv4 nor IPv6"
	errNetlink NotFrame = "it is a netlink message, which no network carries"
	errWLAN    NotFrame = "it is an IEEE 802.11 frame, which is no Ethernet frame"
	errCooked  NotFrame = "its Linux cooked header names a protocol that is no Ethernet type"
)

// Frame gives a packet as an Ethernet frame: data itself where it is one, else
// its payload behind a header that is made for it, in buf, which grows as
// needed. added is by how much the frame is longer than the packet. It fails
// with a NotFrame.
func (l LinkType) Frame(buf, data []byte) (frame []byte, added int, err error) {
	switch l {
	case LinkEthernet:
		if len(data) < ethernetLen {
			return nil, 0, errShort
		}
		return data, 0, nil
	case LinkRaw, LinkRaw12, LinkRaw14:
		return rawFrame(buf, data)
	case LinkIPv4:
		return wrap(buf, data, 0, etherIPv4, nil)
	case LinkIPv6:
		return wrap(buf, data, 0, etherIPv6, nil)
	case LinkNull, LinkLoop:
		return loopbackFrame(buf, data)
	case LinkLinuxCooked:
		return cookedFrame(buf, data)
	case LinkLinuxCooked2:
		return cooked2Frame(buf, data)
	}
	return nil, 0, NotFrame(fmt.Sprintf("its link type is %s, and only Ethernet, raw IP, Linux cooked and BSD loopback are read", l))
}

// Readable says whether packets of the link type may be frames.
func (l LinkType) Readable() bool {
	switch l {
	case LinkEthernet, LinkRaw, LinkRaw12, LinkRaw14, LinkIPv4, LinkIPv6, LinkNull, LinkLoop, LinkLinuxCooked, LinkLinuxCooked2:
		return true
	}
	return false
}

// wrap puts an Ethernet header in place of the first header bytes of data.
func wrap(buf, data []byte, header int, etherType uint16, source []byte) ([]byte, int, error) {
	buf = append(buf[:0], 0x02, 0, 0, 0, 0, 0x02, 0x02, 0, 0, 0, 0, 0x01, 0, 0)
	copy(buf[6:12], source)
	binary.BigEndian.PutUint16(buf[12:], etherType)
	return append(buf, data[header:]...), ethernetLen - header, nil
}

func rawFrame(buf, data []byte) ([]byte, int, error) {
	if len(data) == 0 {
		return nil, 0, errShort
	}
	switch data[0] >> 4 {
	case 4:
		return wrap(buf, data, 0, etherIPv4, nil)
	case 6:
		return wrap(buf, data, 0, etherIPv6, nil)
	}
	return nil, 0, errNeither
}

// loopbackFrame reads a family, which is a number of the system that captured
// in its byte order: whichever order makes it small.
func loopbackFrame(buf, data []byte) ([]byte, int, error) {
	if len(data) < familyLen {
		return nil, 0, errShort
	}
	family := binary.LittleEndian.Uint32(data)
	if family > 0xffff {
		family = binary.BigEndian.Uint32(data)
	}
	switch family {
	case 2:
		return wrap(buf, data, familyLen, etherIPv4, nil)
	case 10, 24, 28, 30: // Linux; NetBSD, OpenBSD; FreeBSD; Darwin
		return wrap(buf, data, familyLen, etherIPv6, nil)
	}
	return nil, 0, errFamily
}

func cookedFrame(buf, data []byte) ([]byte, int, error) {
	if len(data) < cookedLen {
		return nil, 0, errShort
	}
	hardware, protocol := binary.BigEndian.Uint16(data[2:]), binary.BigEndian.Uint16(data[14:])
	return cooked(buf, data, cookedLen, hardware, protocol, address(data[4:6], data[6:14]))
}

func cooked2Frame(buf, data []byte) ([]byte, int, error) {
	if len(data) < cooked2Len {
		return nil, 0, errShort
	}
	hardware, protocol := binary.BigEndian.Uint16(data[8:]), binary.BigEndian.Uint16(data)
	return cooked(buf, data, cooked2Len, hardware, protocol, address([]byte{0, data[11]}, data[12:20]))
}

// address gives the sender's hardware address where it is an Ethernet one.
func address(length, field []byte) []byte {
	if binary.BigEndian.Uint16(length) != 6 {
		return nil
	}
	return field[:6]
}

func cooked(buf, data []byte, header int, hardware, protocol uint16, source []byte) ([]byte, int, error) {
	switch {
	case hardware == hardwareNetlink:
		return nil, 0, errNetlink
	case hardware >= hardware80211 && hardware <= hardware80211+2:
		return nil, 0, errWLAN
	case protocol >= firstEtherType:
		return wrap(buf, data, header, protocol, source)
	case protocol == cookedNovell || protocol == cookedLLC:
		// IEEE 802.3 has the length where Ethernet has a type.
		return wrap(buf, data, header, uint16(min(len(data)-header, firstEtherType-1)), source)
	}
	return nil, 0, errCooked
}

func (l LinkType) String() string {
	if name, ok := linkNames[l]; ok {
		return fmt.Sprintf("%s (%d)", name, uint16(l))
	}
	return fmt.Sprintf("unknown (%d)", uint16(l))
}

// linkNames are the names of the registry, without LINKTYPE_.
var linkNames = map[LinkType]string{
	0: "NULL", 1: "ETHERNET", 3: "AX25", 6: "IEEE802_5", 7: "ARCNET_BSD", 8: "SLIP", 9: "PPP", 10: "FDDI",
	12: "RAW", 14: "RAW", 50: "PPP_HDLC", 51: "PPP_ETHER", 99: "SYMANTEC_FIREWALL", 100: "ATM_RFC1483", 101: "RAW", 104: "C_HDLC",
	105: "IEEE802_11", 106: "ATM_CLIP", 107: "FRELAY", 108: "LOOP", 109: "ENC", 112: "C_HDLC_WITH_DIR", 113: "LINUX_SLL",
	114: "LTALK", 115: "ECONET", 117: "PFLOG", 119: "IEEE802_11_PRISM", 122: "IP_OVER_FC", 123: "SUNATM", 127: "IEEE802_11_RADIOTAP",
	129: "ARCNET_LINUX", 130: "JUNIPER_MLPPP", 131: "JUNIPER_MLFR", 133: "JUNIPER_GGSN", 135: "JUNIPER_ATM2", 136: "JUNIPER_SERVICES",
	137: "JUNIPER_ATM1", 138: "APPLE_IP_OVER_IEEE1394", 139: "MTP2_WITH_PHDR", 140: "MTP2", 141: "MTP3", 142: "SCCP", 143: "DOCSIS",
	144: "LINUX_IRDA", 147: "USER0", 148: "USER1", 149: "USER2", 150: "USER3", 162: "USER15", 163: "IEEE802_11_AVS", 164: "JUNIPER_MONITOR",
	165: "BACNET_MS_TP", 166: "PPP_PPPD", 169: "GPRS_LLC", 177: "LINUX_LAPD", 178: "JUNIPER_ETHER", 179: "JUNIPER_PPP",
	180: "JUNIPER_FRELAY", 181: "JUNIPER_CHDLC", 182: "MFR", 183: "JUNIPER_VP", 187: "BLUETOOTH_HCI_H4", 189: "USB_LINUX",
	192: "PPI", 195: "IEEE802_15_4_WITHFCS", 196: "SITA", 197: "ERF", 201: "BLUETOOTH_HCI_H4_WITH_PHDR", 202: "AX25_KISS", 203: "LAPD",
	204: "PPP_WITH_DIR", 205: "C_HDLC_WITH_DIR", 206: "FRELAY_WITH_DIR", 209: "IPMB_LINUX", 215: "IEEE802_15_4_NONASK_PHY",
	220: "USB_LINUX_MMAPPED", 224: "FC_2", 225: "FC_2_WITH_FRAME_DELIMS", 226: "IPNET", 227: "CAN_SOCKETCAN", 228: "IPV4", 229: "IPV6",
	230: "IEEE802_15_4_NOFCS", 231: "DBUS", 235: "DVB_CI", 236: "MUX27010", 237: "STANAG_5066_D_PDU", 239: "NFLOG", 240: "NETANALYZER",
	241: "NETANALYZER_TRANSPARENT", 242: "IPOIB", 243: "MPEG_2_TS", 244: "NG40", 245: "NFC_LLCP", 247: "INFINIBAND", 248: "SCTP",
	249: "USBPCAP", 251: "BLUETOOTH_LE_LL", 252: "WIRESHARK_UPPER_PDU", 253: "NETLINK", 254: "BLUETOOTH_LINUX_MONITOR",
	256: "BLUETOOTH_LE_LL_WITH_PHDR", 258: "PKTAP", 259: "EPON", 262: "ZWAVE_R1_R2", 264: "WATTSTOPPER_DLM", 265: "ISO_14443",
	266: "RDS", 267: "USB_DARWIN", 270: "LORATAP", 271: "VSOCK", 272: "NORDIC_BLE", 273: "DOCSIS31_XRA31", 274: "ETHERNET_MPACKET",
	275: "DISPLAYPORT_AUX", 276: "LINUX_SLL2", 278: "OPENVIZSLA", 279: "EBHSCR", 281: "DSA_TAG_BRCM", 282: "DSA_TAG_BRCM_PREPEND",
	283: "IEEE802_15_4_TAP", 284: "DSA_TAG_DSA", 285: "DSA_TAG_EDSA", 288: "Z_WAVE_SERIAL", 289: "USB_2_0", 290: "ATSC_ALP",
}
