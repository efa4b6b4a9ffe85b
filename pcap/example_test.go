// SPDX-License-Identifier: Apache-2.0

package pcap_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log"
	"strings"
	"time"

	"github.com/weirnet/weir/pcap"
)

// A capture is written packet by packet, with a comment beside one, and read again.
func Example() {
	var file bytes.Buffer
	w, err := pcap.NewWriter(&file, "made by an example")
	if err != nil {
		log.Fatal(err)
	}
	veth, err := w.AddInterface("veth0", "of the pod default/web")
	if err != nil {
		log.Fatal(err)
	}
	err = w.Write(pcap.Packet{
		Interface: veth, Time: time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC),
		Data: make([]byte, 60), Length: 1514, Comments: []string{"dropped: policy-ingress"},
	})
	if err != nil {
		log.Fatal(err)
	}

	r, err := pcap.NewReader(&file)
	if err != nil {
		log.Fatal(err)
	}
	for {
		var p pcap.Packet
		err := r.Next(&p)
		if err == io.EOF {
			break
		}
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(r.Interface(p.Interface).Name, p.Time.Format(time.RFC3339Nano), len(p.Data), "of", p.Length, "bytes,", p.Comments)
	}
	// Output: veth0 2026-01-02T03:04:05.000000006Z 60 of 1514 bytes, [dropped: policy-ingress]
}

// What is damaged says where, and what came before it was read.
func ExampleDamageError() {
	var file bytes.Buffer
	w, err := pcap.NewWriter(&file)
	if err != nil {
		log.Fatal(err)
	}
	if _, err := w.AddInterface("eth0", ""); err != nil {
		log.Fatal(err)
	}
	for range 2 {
		if err := w.Write(pcap.Packet{Data: make([]byte, 60)}); err != nil {
			log.Fatal(err)
		}
	}
	cut := file.Bytes()[:file.Len()-20]

	r, err := pcap.NewReader(bytes.NewReader(cut))
	for p := new(pcap.Packet); err == nil; {
		err = r.Next(p)
	}
	var damage *pcap.DamageError
	if errors.As(err, &damage) {
		fmt.Println("packets before it:", damage.Packets)
	}
	// Output: packets before it: 1
}

// A file that is no capture is refused at once.
func ExampleNewReader() {
	_, err := pcap.NewReader(strings.NewReader("GET / HTTP/1.1\r\n\r\n"))
	fmt.Println(errors.Is(err, pcap.ErrFormat))
	// Output: true
}
