package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

// server is AdGuard Home.
const server = "127.0.0.1:53"

// question asks for _dns.resolver.arpa (SVCB, RFC 9462), which AdGuard Home answers itself whatever its upstreams are.
var question = []byte("\x4d\x56\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x04_dns\x08resolver\x04arpa\x00\x00\x40\x00\x01")

// ready waits, without an end of its own, until a question has an answer over UDP and over TCP.
func ready() error {
	for _, network := range []string{"udp", "tcp"} {
		said := false
		for {
			err := ask(network)
			if err == nil {
				break
			}
			var refused *net.OpError
			if !said && !errors.As(err, &refused) {
				fmt.Printf("%s: %v\n", network, err)
				said = true
			}
			time.Sleep(100 * time.Millisecond)
		}
	}
	return nil
}

// ask puts the question and wants a message that is the answer to it, be it that there is no such thing.
func ask(network string) error {
	connection, err := net.DialTimeout(network, server, 5*time.Second)
	if err != nil {
		return err
	}
	defer connection.Close()
	if err := connection.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return err
	}
	message := question
	if network == "tcp" {
		message = binary.BigEndian.AppendUint16(nil, uint16(len(question)))
		message = append(message, question...)
	}
	if _, err := connection.Write(message); err != nil {
		return err
	}
	answer := make([]byte, 1500)
	if network == "tcp" {
		var length [2]byte
		if _, err := io.ReadFull(connection, length[:]); err != nil {
			return err
		}
		answer = answer[:min(int(binary.BigEndian.Uint16(length[:])), len(answer))]
		_, err = io.ReadFull(connection, answer)
	} else {
		var count int
		count, err = connection.Read(answer)
		answer = answer[:count]
	}
	if err != nil {
		return err
	}
	if len(answer) < 12 || answer[0] != question[0] || answer[1] != question[1] || answer[2]&0x80 == 0 {
		return fmt.Errorf("%d bytes that are no answer", len(answer))
	}
	return nil
}
