/*
 * The database of the demo: a key-value store on TCP, kept in a file, one line in and one line out.
 *
 *   PUT KEY VALUE   ->  OK
 *   GET KEY         ->  VALUE, or MISSING
 *   COUNT KEY       ->  adds one to a number, and answers it
 *
 * Usage: acme-database --data FOLDER [--port PORT]
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { LINE = 512 };

static char path[4096];

/* The last value written for a key stands; a line of the file is KEY SPACE VALUE. */
static int get(const char *key, char *value) {
    char line[LINE];
    size_t length = strlen(key);
    int found = 0;
    FILE *file = fopen(path, "r");
    if (file == NULL) return 0;
    while (fgets(line, sizeof line, file) != NULL) {
        if (strncmp(line, key, length) == 0 && line[length] == ' ') {
            line[strcspn(line, "\n")] = '\0';
            strcpy(value, line + length + 1);
            found = 1;
        }
    }
    fclose(file);
    return found;
}

static int put(const char *key, const char *value) {
    FILE *file = fopen(path, "a");
    if (file == NULL) return 0;
    int ok = fprintf(file, "%s %s\n", key, value) > 0 && fflush(file) == 0 && fsync(fileno(file)) == 0;
    return fclose(file) == 0 && ok;
}

static void answer(char *request, char *reply) {
    char *verb = strtok(request, " \r\n");
    char *key = strtok(NULL, " \r\n");
    char *value = strtok(NULL, "\r\n");
    char found[LINE];
    if (verb != NULL && key != NULL && value != NULL && strcmp(verb, "PUT") == 0) {
        strcpy(reply, put(key, value) ? "OK" : "ERROR cannot write");
    } else if (verb != NULL && key != NULL && strcmp(verb, "GET") == 0) {
        strcpy(reply, get(key, found) ? found : "MISSING");
    } else if (verb != NULL && key != NULL && strcmp(verb, "COUNT") == 0) {
        snprintf(reply, LINE, "%ld", (get(key, found) ? atol(found) : 0) + 1);
        if (!put(key, reply)) strcpy(reply, "ERROR cannot write");
    } else {
        strcpy(reply, "ERROR what?");
    }
}

int main(int argc, char **argv) {
    int port = 5432, on = 1, off = 0;
    for (int i = 1; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--data") == 0) snprintf(path, sizeof path, "%s/store", argv[i + 1]);
        else if (strcmp(argv[i], "--port") == 0) port = atoi(argv[i + 1]);
    }
    if (path[0] == '\0') {
        fprintf(stderr, "usage: acme-database --data FOLDER [--port PORT]\n");
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    int listener = socket(AF_INET6, SOCK_STREAM, 0);
    struct sockaddr_in6 here = {.sin6_family = AF_INET6, .sin6_port = htons(port), .sin6_addr = in6addr_any};
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    setsockopt(listener, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off);
    if (bind(listener, (struct sockaddr *)&here, sizeof here) != 0 || listen(listener, 16) != 0) {
        perror("acme-database: cannot listen");
        return 1;
    }
    printf("acme-database: listening on port %d, data in %s\n", port, path);
    fflush(stdout);
    for (;;) {
        char request[LINE], reply[LINE], peer[INET6_ADDRSTRLEN] = "?";
        struct sockaddr_in6 from;
        socklen_t size = sizeof from;
        int client = accept(listener, (struct sockaddr *)&from, &size);
        if (client < 0) continue;
        inet_ntop(AF_INET6, &from.sin6_addr, peer, sizeof peer);
        FILE *stream = fdopen(client, "r+");
        if (stream == NULL) {
            close(client);
            continue;
        }
        while (fgets(request, sizeof request, stream) != NULL) {
            printf("acme-database: %s asks: %s", peer, request);
            fflush(stdout);
            answer(request, reply);
            fseek(stream, 0, SEEK_CUR);
            fprintf(stream, "%s\n", reply);
            fflush(stream);
        }
        fclose(stream);
    }
}
