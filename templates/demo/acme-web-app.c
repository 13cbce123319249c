/*
 * The web application of the demo. It knows its database by the one name that is written here, as programs do, and
 * nobody tells it more: no argument, no variable, no configuration. Linked statically it needs nothing of the node.
 */
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/utsname.h>
#include <unistd.h>

int main(void) {
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found, *each;
    char address[256] = "", line[512] = "";
    struct utsname here;
    int socket_ = -1;
    int failed = getaddrinfo("database", "5432", &hints, &found);
    if (failed) {
        fprintf(stderr, "acme-web-app: cannot find database: %s\n", gai_strerror(failed));
        return 1;
    }
    for (int attempt = 0; attempt < 30 && socket_ < 0; attempt++) { /* the server may still be starting */
        for (each = found; each != NULL && socket_ < 0; each = each->ai_next) {
            socket_ = socket(each->ai_family, each->ai_socktype, each->ai_protocol);
            if (connect(socket_, each->ai_addr, each->ai_addrlen) != 0) {
                close(socket_);
                socket_ = -1;
            } else {
                getnameinfo(each->ai_addr, each->ai_addrlen, address, sizeof address, NULL, 0, NI_NUMERICHOST);
            }
        }
        if (socket_ < 0) sleep(1);
    }
    if (socket_ < 0) {
        perror("acme-web-app: cannot connect to database");
        return 1;
    }
    FILE *stream = fdopen(socket_, "r+");
    fprintf(stream, "COUNT visitors\n");
    fflush(stream);
    fseek(stream, 0, SEEK_CUR);
    if (fgets(line, sizeof line, stream) == NULL || strncmp(line, "ERROR", 5) == 0) {
        fprintf(stderr, "acme-web-app: no answer from database: %s\n", line);
        return 1;
    }
    line[strcspn(line, "\n")] = '\0';
    uname(&here);
    printf("acme-web-app on %s: database is %s, and answers: you are visitor %s\n", here.nodename, address, line);
    return 0;
}
